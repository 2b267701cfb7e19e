"""`prepare --show`: rows as they came and as they are understood, and that its page shows what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from published import EXAMPLES

from cotray.cli import job
from cotray.config import load_config
from cotray.data.preview import preview

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/own-data.md").read_text()
SHOWN = ("boolq", "esnli", "gsm8k", "sciq", "socialiqa")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}(?: [^\n]*)?\n(.*?)\n```", PAGE, re.S)


def test_the_page_shows_five_layouts_as_the_command_prints_them(tmp_path: Path) -> None:
    for name in SHOWN:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(EXAMPLES[name].row) + "\n")
    config = load_config(ROOT / "jobs/configs/smoke.yaml", [f"data.path={tmp_path}"])
    assert preview(config, 5) in blocks("text")


def test_the_page_begins_with_a_csv_its_description_and_what_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text(blocks("csv")[0] + "\n")
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0] + "\n")
    assert len(blocks("yaml")[0].splitlines()) <= 6
    assert job("prepare", ["-c", "mine.yaml", "--show", "1"]) == 0
    assert capsys.readouterr().out.strip() == blocks("text")[0]
    assert not (tmp_path / "runs").exists()


def test_a_row_that_cannot_be_used_is_shown_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "Which?", "choices": ["a", "b"], "answer": "c"}\n{\n')
    config = load_config(ROOT / "jobs/configs/smoke.yaml", [f"data.path={tmp_path}"])
    first, second = preview(config, 5).split("\n\n")
    assert first.endswith("not usable: no answer among the choices") and second.endswith(
        "not usable: bad JSON"
    )
