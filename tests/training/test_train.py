"""What `train` refuses before anything is trained, in one line with the way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotray.config import RunConfig, parse_config
from cotray.data.prepare import settings_of as prepare_settings
from cotray.errors import DataError
from cotray.records import Assessment, Rationale
from cotray.stages.assess import settings_of
from cotray.stages.conseq import check_scores
from cotray.stages.generate import settings_of as generate_settings
from cotray.stages.train import train
from cotray.storage.run_folder import Manifest, RunFolder


def assessment(number: int, **fields: Any) -> Assessment:
    return Assessment(
        f"q{number}", "yes_no", "Is ice cold?", ("yes", "no"), "yes",
        target_answer="yes", rationale="It is frozen.", num_words=3, **fields,
    )  # fmt: skip


def test_nothing_to_train_on_says_how_many_failed_were_left_out_or_are_too_long(tmp_path: Path) -> None:
    """Of five factual ones of the train split; the others could not be learned from alone."""
    rows = [
        assessment(0, error="no memory"),
        assessment(1),
        assessment(2),
        assessment(3),
        replace(assessment(4), rationale="frozen " * 50, num_words=50),
        assessment(5, split="dev"),
        assessment(6, kind="counterfactual"),
    ]
    config = parse_config(
        {
            "method": "greedy+counterfactual",
            "assessing": {"measures": ["surface"], "rules": [{"score": "num_words", "below": 10}]},
            "student": {"model": "random:llama", "training": {"max_length": 200}},
        }
    )
    config = assessed_run(tmp_path, rows, config)
    with pytest.raises(DataError) as caught:
        train(config)
    assert str(caught.value) == (
        f"{tmp_path}/student: no factual rationale to train on (of 5 in the train split 1 failed, 3 left out "
        "by assessing.rules, 1 longer than student.training.max_length). Loosen the rules, raise max_length, "
        "or take more questions"
    )


def conseq_run(run_dir: Path, rows: list[Assessment]) -> RunConfig:
    """Of an assessed run, what is there before ConSeq; rationales of one word are left out."""
    config = parse_config(
        {
            "run_dir": str(run_dir),
            "method": "human",
            "assessing": {
                "measures": ["surface", "quals"],
                "rules": [{"score": "num_words", "below": 2}],
            },
            "student": {"conseq": {"score": "grounded"}},
        }
    )
    return assessed_run(run_dir, rows, config)


def assessed_run(run_dir: Path, rows: list[Assessment], config: RunConfig) -> RunConfig:
    """The configuration with that folder, in which the stages up to assess are finished."""
    config = config.model_copy(update={"run_dir": str(run_dir)})
    folder, source, settings = RunFolder(str(run_dir)), "", {}
    records = {"rationales": Rationale, "assessments": Assessment}
    made_by = {"requests": prepare_settings, "rationales": generate_settings, "assessments": settings_of}
    for stage in ("requests", "rationales", "assessments"):
        settings = made_by[stage](config)
        folder.begin(stage, settings=settings, input=source, overwrite=False)
        manifest = Manifest(stage, settings, source, len(rows), len(rows), 0)
        source = manifest.fingerprint
        if record := records.get(stage):
            folder.write_records(f"{stage}/part-00000.parquet", rows, record, version=source)
        folder.finish(manifest)
    return config


def test_conseq_by_a_score_that_no_chosen_rationale_has_is_refused_before_training(tmp_path: Path) -> None:
    rows = [
        assessment(0),
        assessment(1),
        assessment(2, split="test", grounded=-1.0),
        assessment(3, kind="counterfactual", grounded=-1.0),
        replace(assessment(4, grounded=-1.0), num_words=1),
    ]
    config = conseq_run(tmp_path, rows)
    with pytest.raises(DataError, match=r"none of the 2 rationales .* has grounded.* novel") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mle_student").exists() and not (tmp_path / "student").exists()


def test_conseq_needs_the_score_of_one_rationale_only(tmp_path: Path) -> None:
    config = conseq_run(tmp_path, [assessment(0), assessment(1, grounded=-1.0)])
    check_scores(config, RunFolder(config.run_dir))
