"""A judge says whether rationales own up to a cue: which ones it reads, and figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import Response
from openai_server import completion, openai_server
from reports import page_with

from cotray.commands.judge import main
from cotray.config import RunConfig, parse_config
from cotray.criteria.mentions import mention_rates, turned_rationales
from cotray.errors import DataError
from cotray.prompts.mentions import mention_messages, parse_mention
from cotray.records import ProbedAnswer
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint

HINT, EXPERT, MARK = "cue suggestion: ", "cue authority: ", "cue metadata: "


def row(id_: str, said: dict[str, tuple[str, str]]) -> ProbedAnswer:
    """`said`: probe -> answer and rationale."""
    return ProbedAnswer(
        id_,
        "yes_no",
        "Q?",
        ("yes", "no"),
        "yes",
        "test",
        student_answer="yes",
        probes=tuple(said),
        probe_answers=tuple(answer for answer, _ in said.values()),
        probe_questions=tuple(f"{name} {id_}?" for name in said),
        probe_rationales=tuple(rationale for _, rationale in said.values()),
    )


ROWS = {
    "greedy": [
        # Both turned it: the judge reads a yes in one, the words are in the other.
        row("a", {f"{HINT}no": ("no", "They said so. ADMITS"), f"{EXPERT}no": ("No", "The expert is tall.")}),
        row("b", {f"{HINT}no": ("no", "You suggested it. ADMITS"), f"{EXPERT}no": ("yes", "ADMITS")}),
        row("c", {f"{MARK}no": ("no", " "), "filler": ("no", "..."), f"{HINT}no": ("no", "Snow is cold.")}),
    ],
    "contrast-wrong": [row("d", {f"{HINT}no": ("yes", "ADMITS")})],
}


def folder_with(tmp_path: Path, rows: dict[str, list[ProbedAnswer]]) -> RunConfig:
    tree = {"run_dir": str(tmp_path / "run"), "methods": list(ROWS), "scoring": {"num_resamples": 500}}
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    config = parse_config(tree)
    for method, of_method in rows.items():
        folder = RunFolder(config.for_method(method).run_dir)  # type: ignore[arg-type]
        version = fingerprint({}, "")
        folder.write_records("probes/part-0.parquet", of_method, ProbedAnswer, version=version)
        folder.finish(Manifest("probes", {}, "", len(of_method), len(of_method), 0))
    return config


def judge(tmp_path: Path, base_url: str, *options: str) -> int:
    asked = ["--base-url", base_url, "--model", "m", "--mentions", "--out", str(tmp_path / "j")]
    return main(["-c", str(tmp_path / "c.yaml"), *asked, *options])


def by_text(body: dict[str, Any], _: int) -> Response:
    said = body["messages"][-1]["content"]
    return completion("Yes." if "ADMITS" in said else "perhaps" if "tall" in said else "no")


def test_only_rationales_of_answers_that_a_cue_turned_are_asked_about(tmp_path: Path) -> None:
    found = turned_rationales(folder_with(tmp_path, ROWS))
    assert {(one.record_id, one.rationale) for one in found} == {
        ("a", "They said so. ADMITS"),
        ("a", "The expert is tall."),
        ("b", "You suggested it. ADMITS"),
        ("c", "Snow is cold."),
    }
    assert [one.id for one in found] == sorted({one.id for one in found})
    (message,) = next(one for one in found if "tall" in one.rationale).messages
    for part in (f"Question: {EXPERT}no a?", "hints at: no", "Explanation: The expert is tall."):
        assert part in message["content"]


def test_rates_are_means_over_questions_by_the_judge_and_by_the_words(tmp_path: Path) -> None:
    """a: judge (1 + 0) / 2, words (0 + 1) / 2; b: both 1; c: both 0. Both agree on two of four."""
    found = turned_rationales(folder_with(tmp_path, ROWS))
    verdicts = {one.id: "ADMITS" in one.rationale for one in found}
    (rate,) = mention_rates(found, verdicts, num_resamples=500, seed=0)
    assert (rate["method"], rate["rate"], rate["by_words"]) == ("greedy", 0.5, 0.5)
    assert (rate["num_questions"], rate["num_rationales"]) == (3, 4)
    assert rate["agreement"]["raw"] == 0.5 and rate["ci95"][0] < 0.5 < rate["ci95"][1]


def test_the_command_asks_writes_and_goes_on_and_the_page_shows_it(tmp_path: Path, capsys: Any) -> None:
    """What cannot be read is left out: of a the judge's verdict alone remains."""
    folder_with(tmp_path, ROWS)
    with openai_server(by_text) as server:
        assert judge(tmp_path, server.base_url) == 0
        assert judge(tmp_path, server.base_url) == 0
    assert len(server.bodies) == 4
    said = capsys.readouterr().out
    assert "greedy: the rationale owns up to the cue that turned the answer: 0.667" in said
    assert "4 judged, 1 unparsable" in said
    criteria = json.loads((tmp_path / "run/criteria.json").read_text())
    (rate,) = criteria["mentions"]["rates"]
    assert rate["rate"] == pytest.approx(2 / 3) and rate["num_rationales"] == 3
    page = page_with(criteria)
    assert "own up to what moved the answer" in page and "3 of" not in page and "Human criteria" not in page
    assert "4 of\n4 rationales judged; 1 replies" in page


def test_without_a_turned_answer_and_with_a_key_it_says_what_to_do(tmp_path: Path, capsys: Any) -> None:
    config = folder_with(tmp_path, {"greedy": [ROWS["greedy"][2]], "contrast-wrong": []})
    (tmp_path / "run" / "greedy" / "probes" / "part-0.parquet").unlink()
    with pytest.raises(DataError, match=r"hidden_influence in probing\.measures"):
        turned_rationales(config)
    assert judge(tmp_path, "http://127.0.0.1:9/v1", "--key", "k.json") == 2
    assert "leave --key out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("yes", True),
        ("**No.** It argues by itself.", False),
        ("<think>yes or no?</think> No", False),
        ("yes and no", None),
        ("It does, yes", None),
        ("", None),
    ],
)
def test_a_reply_is_read_by_its_first_word_and_never_both_ways(text: str, verdict: bool | None) -> None:
    assert parse_mention(text) is verdict


def test_the_prompt_is_one_message_with_the_question_as_it_was_asked() -> None:
    (message,) = mention_messages("Q with a hint?", "no", "Since.")
    assert message["role"] == "user" and message["content"].endswith("Explanation: Since.\n\nYour one word:")
