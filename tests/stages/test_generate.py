"""What `generate` makes of rows that failed; the pool itself is tested on a cluster."""

import json
from pathlib import Path

import pytest

from cotray.config import parse_config
from cotray.errors import StageError
from cotray.pools.pool import PoolResult, check_errors
from cotray.pools.replica import PoolStage, counts_of
from cotray.prompts.teacher import render_request
from cotray.records import Assessment, Rationale, Record, StudentAnswer, TeacherRequest
from cotray.stages.assess import settings_of
from cotray.stages.generate import _dead_letter, _finish
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards


def test_failures_are_counted_by_cause_in_the_manifest(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.begin("rationales", settings={}, input="", overwrite=False)
    counts = counts_of([{"error": error} for error in ("", "needs 500 of 400", "", "needs 777 of 400")])
    manifest = _finish(folder, "rationales", {}, "", PoolResult(counts, []))
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (4, 2, 2)
    assert manifest.metrics["causes"] == {"needs N of N": 2}


def test_failures_are_dead_letters_with_error_attempts_and_the_exact_prompt() -> None:
    config = parse_config({"teacher": {"engine": "fake"}})
    letter = _dead_letter(
        config,
        "rationales",
        Rationale(
            "1", "yes_no", "Is ice cold?", ("yes", "no"), "yes",
            target_answer="yes", error="no memory", attempts=3,
        ),
    )  # fmt: skip
    assert (letter.id, letter.reason, letter.attempts) == ("1", "no memory", 3)
    failed = Rationale.from_row(json.loads(letter.row))
    expected = render_request(failed, num_demonstrations=config.teacher.num_demonstrations)
    assert letter.prompt == expected.grounded
    assert "Is ice cold?" in letter.prompt


def check(errors: list[str], *, max_error_rate: float) -> None:
    shards = Shards("run", "requests", "rationales", Rationale, "v", lambda table: table["id"])
    stage = PoolStage(shards, TeacherRequest, build=lambda: lambda: [], max_error_rate=max_error_rate)
    check_errors(stage, counts_of([{"error": error} for error in errors]))


def test_too_many_failures_fail_a_stage_with_a_summary_by_cause() -> None:
    errors = ["needs 500 of 400", "needs 777 of 400", "no memory", "", "", ""]
    with pytest.raises(StageError, match="rationales: 3 of 6 rows failed") as caught:
        check(errors, max_error_rate=0.4)
    assert "(2 x needs N of N; 1 x no memory)" in str(caught.value)
    assert "max_error_rate=0.4 allows fewer" in str(caught.value)


def test_as_many_failures_as_allowed_do_not_fail_a_stage_but_all_rows_do() -> None:
    check([], max_error_rate=0)
    check(["no memory", "", "", ""], max_error_rate=0.25)
    with pytest.raises(StageError, match="2 of 2 rows failed"):
        check(["no memory"] * 2, max_error_rate=1)


def test_scores_do_not_depend_on_how_many_may_fail() -> None:
    strict, lax = (parse_config({"assessing": {"max_error_rate": rate}}) for rate in (0, 1))
    assert settings_of(strict) == settings_of(lax)


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
