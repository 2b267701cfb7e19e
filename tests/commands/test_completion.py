"""The tab key, as shells press it: by argcomplete's protocol, and by bash's own function."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cotray.commands.completion import offered_keys
from cotray.commands.verbs import VERBS
from cotray.config import RunConfig
from cotray.config.reference import keys

ROOT = Path(__file__).parents[2]


def offered(line: str, folder: Path) -> list[str]:
    """What may follow the line, as the program tells the shell."""
    answer = folder / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "cotray.cli"]
    subprocess.run(command, env=os.environ | asked, cwd=folder, check=True, capture_output=True)
    return [word.strip() for word in answer.read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cotray s", ["score", "serve", "sweep"]),
        ("cotray --v", ["--version"]),
        ("cotray prepare --s", ["--show", "--show-prompts"]),
        ("cotray run -c a.yaml data.limit=3 --ov", ["--overwrite"]),
        ("cotray run -c ", ["a.yaml", "b.yml"]),
        ("cotray run -c a.yaml student.training.ep", ["student.training.epochs="]),
        ("cotray sweep run_d", ["run_dir="]),
        ("cotray train_pairs training.ep", ["training.epochs="]),
        ("cotray annotate ", ["--help", "export", "import"]),
        ("cotray annotate export --an", ["--annotators"]),
        ("cotray bench pl", ["plan", "planted"]),
        ("cotray export --to ch", ["chat"]),
    ],
)  # fmt: skip
def test_what_may_follow_is_offered(line: str, expected: list[str], tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "c.txt"):
        (tmp_path / name).touch()
    found = offered(line, tmp_path)
    assert sorted(found) == expected


def test_every_key_is_reached_section_by_section() -> None:
    found, level = set(), [""]
    while level:
        words = {word for prefix in level for word in offered_keys(RunConfig, prefix)}
        found |= {word for word in words if word.endswith("=")}
        level = [word for word in words if word.endswith(".")]
    # A list's items have no keys that could be given behind a command.
    expected = {f"{key.path}=" for key in keys() if not key.is_section and "[]" not in key.path}
    assert found == expected and "student.training.learning_rate=" in found


def test_a_section_that_is_the_only_thing_that_fits_is_opened_at_once() -> None:
    assert set(offered_keys(RunConfig, "student.tr")) == set(offered_keys(RunConfig, "student.training."))


def test_bash_asks_cotray_once_the_line_of_the_documentation_is_given(tmp_path: Path) -> None:
    program = tmp_path / "cotray"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cotray.cli "$@"\n')
    program.chmod(0o755)
    page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    [line] = [line for line in page.splitlines() if line.startswith("eval ")]
    script = (
        f"{line}\nCOMP_LINE='cotray gen'; COMP_POINT=10; COMP_TYPE=9\n"
        '_python_argcomplete cotray\necho "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    bash = shutil.which("bash")
    assert bash
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["generate"], done.stderr


def test_torch_and_ray_are_not_imported_for_a_tab() -> None:
    script = (
        "import sys, cotray.commands.completion\n"
        "from cotray.commands.verbs import VERBS, parser_of\n"
        "[parser_of(verb, verb) for verb in VERBS]\n"
        "assert not {'torch', 'ray', 'transformers', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert len(VERBS) == 19
