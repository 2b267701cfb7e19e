"""A few answers that come again and again are the choices of all questions, and people are told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotray.cli import job
from cotray.data.few_answers import labels_of
from cotray.data.first_look import first_look


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        (["supported", "Refuted", "refuted"] * 3, ("Refuted", "supported")),
        (["a"] * 9, ()),  # one label tells nothing apart
        (["a", "b"] * 2, ()),  # may be chance
        (["a", "b"] * 3 + ["c"], ()),  # may be an open answer
        (["a", "b", "c", "d", "e", "f"] * 3, ()),
        (["1", "2"] * 3, ()),  # values, or places among choices
        ([], ()),
    ],
)
def test_labels_are_two_to_five_answers_of_which_each_is_there_three_times(
    answers: list[str], labels: tuple[str, ...]
) -> None:
    assert labels_of(answers) == labels


def claims(folder: Path) -> Path:
    lines = ["nr;statement;verdict"]
    lines += [f"{n};Thing {n} is heavy.;{'supported' if n % 2 else 'refuted'}" for n in range(40)]
    (folder / "claims.csv").write_text("\n".join(lines))
    return folder / "claims.csv"


def test_a_first_look_finds_the_labels_of_claims(tmp_path: Path) -> None:
    found = first_look(str(claims(tmp_path)))
    assert found.config.labels == ("refuted", "supported") and found.tasks == {"multiple_choice"}
    assert found.num_understood == 20


def test_prepare_says_that_open_answers_look_like_choices_and_how_many_are_for_testing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"id": "nr", "question": "statement", "answer": "verdict"}
    tree = {"run_dir": str(tmp_path / "run"), "data": {"path": str(claims(tmp_path)), "columns": columns}}
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    assert job("prepare", ["-c", str(tmp_path / "c.yaml")]) == 0
    said = capsys.readouterr().out
    assert "read as: data.columns; 40 open" in said
    assert "below 30 test questions a report shows no figures; raise data.test_fraction" in said
    assert 'say data.labels: ["refuted", "supported"]' in said
    options = [f"run_dir={tmp_path}/labelled", "data.labels=[refuted,supported]", "data.test_fraction=0.9"]
    options += ["data.dev_fraction=0.02"]
    assert job("prepare", ["-c", str(tmp_path / "c.yaml"), *options]) == 0
    said = capsys.readouterr().out
    assert "40 multiple_choice" in said and "below 30" not in said and "say data.labels" not in said


def test_choices_given_as_a_list_of_texts_are_pointed_to_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"id": "nr", "question": "statement", "answer": "verdict", "choices": ["supported", "refuted"]}
    tree = {"run_dir": str(tmp_path / "run"), "data": {"path": str(claims(tmp_path)), "columns": columns}}
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    assert job("prepare", ["-c", str(tmp_path / "c.yaml"), "--show", "1"]) == 0
    assert "missing column 'supported'; choices that all questions have are named in data.labels" in (
        capsys.readouterr().out
    )
