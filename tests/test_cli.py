"""What a person sees at the prompt: help, one-line errors, exit codes; and which imports that costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cotray.cli import job, main
from cotray.commands.verbs import VERBS
from cotray.errors import ConfigError, StageError, cotray_error

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("verb", VERBS)
def test_help_needs_neither_torch_nor_ray(verb: str) -> None:
    script = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('jobs.{verb}', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'ray', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: python -m jobs.{verb} ")


def test_the_console_script_lists_its_verbs_without_importing_what_they_need() -> None:
    script = (
        "import sys; from cotray.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("yaml", "overrides", "message"),
    [
        ("data: {pth: x}", [], "unknown key 'data.pth'; did you mean 'data.path'?"),
        (
            "",
            ["teacher.max_pairs=0"],
            "teacher.max_pairs: Input should be greater than or equal to 1 (got 0)",
        ),
        ("", ["data.limit"], "'data.limit': an override is written KEY=VALUE"),
        ("", ["method=best"], "method: Input should be 'greedy'"),
        ("[1, 2]", [], "expected keys and values"),
    ],
)
def test_users_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, yaml, overrides, message) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml)
    assert job("report", ["-c", str(config), *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cotray: ") and len(error.splitlines()) == 1
    assert message in error


def test_missing_configuration_file_is_named(capsys) -> None:
    assert job("run", ["-c", "nope.yaml"]) == 2
    assert "nope.yaml: no such configuration file" in capsys.readouterr().err


def test_options_may_stand_between_overrides(tmp_path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(f"run_dir: {tmp_path}/none")
    assert job("report", ["data.limit=3", "-c", str(tmp_path / "c.yaml"), "seed=2"]) == 2
    assert "nothing is scored yet" in capsys.readouterr().err


def test_console_script_knows_the_same_verbs(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    assert main([]) == 2
    assert "usage: cotray VERB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("genarate", "did you mean 'generate'?"), ("train-pairs", "did you mean 'train_pairs'?"),
     ("destroy", "`cotray --help` lists them")],
)  # fmt: skip
def test_of_a_mistyped_verb_the_nearest_is_named(capsys, typed: str, hint: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([typed, "-c", "x.yaml"])
    assert stopped.value.code == 2
    assert f"there is no verb '{typed}'; {hint}" in capsys.readouterr().err


def test_the_version_is_that_of_the_project(capsys) -> None:
    assert main(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"cotray {project['version']}\n"


def test_error_behind_rays_wrapping_is_found() -> None:
    class RayTaskError(Exception):
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

    assert str(cotray_error(RayTaskError(ConfigError("the way out")))) == "the way out"
    try:
        try:
            raise StageError("inner")
        except StageError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as outer:
        assert str(cotray_error(outer)) == "inner"
    died = RuntimeError(
        "The actor died: \n  File x.py\ncotray.errors.ConfigError: no such model; take this\n more"
    )
    found = cotray_error(died)
    assert isinstance(found, ConfigError) and str(found) == "no such model; take this"
    assert cotray_error(ValueError("a bug")) is None


def test_bugs_keep_their_traceback(tmp_path, monkeypatch) -> None:
    (tmp_path / "c.yaml").write_text("")

    def explode(verb: str):
        raise ZeroDivisionError

    monkeypatch.setattr("cotray.commands.stage._call", explode)
    with pytest.raises(ZeroDivisionError):
        job("run", ["-c", str(tmp_path / "c.yaml")])
