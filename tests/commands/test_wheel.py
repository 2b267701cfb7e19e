"""With the wheel alone, in a folder that has nothing to do with a clone, every verb is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cotray.commands.verbs import VERBS

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("cotray", "jobs", "cluster")
PARTS = ("annotate export", "annotate import", "bench device")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel's files; it is built from a copy, because building leaves files behind."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(wheels), str(source)], check=True)
    [wheel] = wheels.glob("cotray-*.whl")
    target = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def ran(unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    # -P: what is imported comes from the wheel, and not from the folder that the command is given in.
    command = [sys.executable, "-P", "-m", "cotray.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("verb", [*VERBS, *PARTS])
def test_the_wheel_alone_has_every_verb(verb: str, unpacked: Path, tmp_path: Path) -> None:
    done = ran(unpacked, tmp_path, *verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: cotray {verb} ")


def test_the_wheel_has_the_package_alone_and_is_what_was_run(unpacked: Path, tmp_path: Path) -> None:
    assert sorted(path.name.partition("-")[0] for path in unpacked.iterdir()) == ["cotray", "cotray"]
    command = [sys.executable, "-P", "-c", "import cotray, cotray.bench.run; print(cotray.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == unpacked / "cotray/__init__.py"


def test_from_the_wheel_data_are_looked_at_and_shown(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question;answer\nCan a fish fly?;no\n")
    done = ran(unpacked, tmp_path, "init", "a.csv")
    assert done.returncode == 0, done.stderr
    shown = ran(unpacked, tmp_path, "prepare", "-c", "cotray.yaml", "--show", "1")
    assert "question  Can a fish fly?" in shown.stdout, shown.stderr


def test_what_bench_runs_and_plants_is_the_demo_that_people_run() -> None:
    packaged = ROOT / "cotray/bench/demo.yaml"
    assert packaged.read_text("utf-8") == (ROOT / "jobs/configs/demo.yaml").read_text("utf-8")
