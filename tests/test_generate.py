"""What `generate` makes of rows that failed; the pool itself is tested on a cluster."""

import json
from pathlib import Path

import pytest

from cotray.config import RunConfig, parse_config
from cotray.data.shards import Shards
from cotray.data.store import DeadLetter, Manifest, RunFolder
from cotray.errors import StageError
from cotray.prompts.teacher import render_request
from cotray.records import Assessment, Rationale, Record, StudentAnswer, TeacherRequest
from cotray.stages.generate import _dead_letter, _finish
from cotray.stages.replica import PoolStage, counts_of


def finish(folder: RunFolder, errors: list[str], **teacher) -> tuple[RunConfig, Manifest]:
    config = parse_config({"run_dir": folder.root, "teacher": {"engine": "fake", **teacher}})
    rows = [
        Rationale(
            str(index), "yes_no", "Is ice cold?", ("yes", "no"), "yes",
            target_answer="yes", rationale="" if error else "It is.", error=error, attempts=3 if error else 1,
        )
        for index, error in enumerate(errors)
    ]  # fmt: skip
    folder.begin("rationales", settings={}, input="", overwrite=False)
    folder.write_dead_letters("rationales", [_dead_letter(config, row) for row in rows if row.error])
    counts = counts_of([row.to_row() for row in rows])
    return config, _finish(folder, config, {}, Manifest("requests", {}, "", 0, 0, 0), counts)


def test_failures_are_dead_letters_with_error_attempts_and_the_exact_prompt(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    config, manifest = finish(folder, ["", "no memory", "", ""])
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (4, 3, 1)
    (letter,) = folder.read_records("dead_letter", DeadLetter)
    assert (letter.id, letter.reason, letter.attempts) == ("1", "no memory", 3)
    failed = Rationale.from_row(json.loads(letter.row))
    expected = render_request(failed, num_demonstrations=config.teacher.num_demonstrations)
    assert letter.prompt == expected.grounded
    assert "Is ice cold?" in letter.prompt


def test_too_many_failures_fail_the_stage_with_a_summary_by_cause(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    errors = ["needs 500 of 400", "needs 777 of 400", "no memory", "", "", ""]
    with pytest.raises(StageError, match="3 of 6 requests failed") as caught:
        finish(folder, errors, max_error_rate=0.4)
    assert "2 x needs N of N; 1 x no memory" in str(caught.value)
    assert folder.manifest("rationales") is None
    assert len(list(folder.read_records("dead_letter", DeadLetter))) == 3


def test_as_many_failures_as_allowed_do_not_fail_the_stage(tmp_path: Path) -> None:
    _, manifest = finish(RunFolder(str(tmp_path)), ["no memory", "", "", ""], max_error_rate=0.25)
    assert manifest.num_dead == 1


@pytest.mark.parametrize(
    ("source", "target", "counted"),
    [
        (TeacherRequest, Rationale, ["num_tokens", "splits", "stop_reason", "error"]),
        # The teacher's tokens are not written again; an error is the judge's own.
        (Rationale, Assessment, ["error"]),
        (Rationale, StudentAnswer, []),
    ],
)
def test_a_stage_counts_only_what_it_made_itself(
    source: type[Record], target: type[Record], counted: list[str]
) -> None:
    shards = Shards("run", "sources", "targets", target, "v", lambda table: table["id"])
    assert PoolStage(shards, source, build=lambda: lambda: []).counted == counted
