"""Pairs of texts of which one is to be preferred, for DPO and its kin.

Each source of pairs is a configuration of the data set, because they say different things: `decoding` prefers
a rationale that speaks for its answer to one that would go with any, `student` a right answer with its
explanation to the student's own mistake.
"""

from __future__ import annotations

from collections.abc import Iterator

from cotray.config import RunConfig
from cotray.export.conversations import asked, factual, message, said
from cotray.export.dataset import Line, file_of
from cotray.export.finished_run import FinishedRun, run_of
from cotray.records import QAPair, Rationale, normalized


def preference(run: FinishedRun, config: RunConfig) -> Iterator[Line]:
    """`prompt`, `chosen` and `rejected` as messages, and the same as plain texts. `config` is that of the
    whole run, in whose folder the greedy rationales of the same questions are looked for."""
    rationales = {row.id: row for row in factual(run) if row.sample == 0}
    greedy = run_of(config, "greedy") or run_of(config, "greedy+counterfactual")
    if greedy is not None and run.config.decoding_method.startswith("contrast-"):
        yield from _over_greedy(rationales, greedy)
    yield from _over_students_mistakes(rationales, run)


def _over_greedy(rationales: dict[str, Rationale], greedy: FinishedRun) -> Iterator[Line]:
    for other in factual(greedy):
        row = rationales.get(other.id)
        if row is None or other.sample or row.rationale.strip() == other.rationale.strip():
            continue
        answer = row.target_answer
        yield _line("decoding", row, said(row.rationale, answer), said(other.rationale, answer))


def _over_students_mistakes(rationales: dict[str, Rationale], run: FinishedRun) -> Iterator[Line]:
    for own in run.answers():
        row = rationales.get(own.id)
        if row is None or normalized(own.student_answer) == normalized(own.answer):
            continue
        chosen = said(row.rationale, row.target_answer)
        yield _line("student", row, chosen, said(own.rationale, own.student_answer))


def _line(source: str, pair: QAPair, chosen: str, rejected: str) -> Line:
    """TRL and axolotl read messages; LLaMA-Factory reads a list of messages only before a single one."""
    question = asked(pair)
    columns = {
        "prompt": [message("user", question)],
        "chosen": [message("assistant", chosen)],
        "rejected": [message("assistant", rejected)],
        "question": question,
        "better": chosen,
        "worse": rejected,
    }
    return f"{source}/{file_of(pair.split)}", {"id": pair.id, **columns}
