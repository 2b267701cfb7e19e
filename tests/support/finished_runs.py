"""Run folders of two methods with rationales and answers made by hand, as exports read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotray.config import Method, RunConfig, parse_config
from cotray.records import Rationale, Record, StudentAnswer
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint

METHODS: tuple[Method, ...] = ("greedy", "contrast-wrong+counterfactual")
TEACHER = "random:llama"
STUDENT = "random:qwen2"
QUESTIONS: tuple[dict[str, Any], ...] = (
    {"id": "q1", "task": "yes_no", "question": "Can a heron swim?", "choices": ("yes", "no"), "answer": "no"},
    {
        "id": "q2",
        "task": "multiple_choice",
        "question": " Where does rain come from? ",
        "choices": ("clouds", "rivers", "snow"),
        "answer": "clouds",
        "split": "dev",
    },
    {
        "id": "q3",
        "task": "yes_no",
        "question": "Is “ice” cold?",
        "choices": ("yes", "no"),
        "answer": "yes",
        "split": "test",
    },
)


def run_folder(root: Path, **sections: Any) -> RunConfig:
    """Greedy and contrastive rationales of three questions, which agree about q2; the contrastive run has
    counterfactual ones too, a failed row, and a student who is wrong about q1 and q2."""
    tree = {
        "run_dir": str(root / "run"),
        "methods": METHODS,
        "teacher": {"model": TEACHER},
        "student": {"model": STUDENT},
        "scoring": {"max_new_tokens": 24},
    }
    config = parse_config(tree | sections)
    for method in METHODS:
        one = config.for_method(method)
        folder = RunFolder(one.run_dir)
        finish(folder, "rationales", _rationales(one), Rationale, settings=_settings(one), num_dead=1)
        finish(folder, "requests", [], Record, metrics={"path": "birds.jsonl"})
    folder = RunFolder(config.for_method(METHODS[1]).run_dir)
    finish(folder, "answers", _answers(), StudentAnswer)
    return config


def finish(
    folder: RunFolder,
    stage: str,
    rows: list,
    record: type[Record],
    *,
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    num_dead: int = 0,
    input: str = "",
) -> None:
    if rows:
        version = fingerprint(settings or {}, input)
        folder.write_records(f"{stage}/part-0.parquet", rows, record, version=version)
    folder.finish(Manifest(stage, settings or {}, input, len(rows), len(rows), num_dead, metrics or {}))


def _settings(config: RunConfig) -> dict[str, Any]:
    kinds = ["factual", "counterfactual"] if config.counterfactual_weight else ["factual"]
    decoding = config.teacher.decoding.model_dump()
    return {
        "method": config.decoding_method,
        "kinds": kinds,
        "teacher": {"model": TEACHER, "decoding": decoding},
    }


def _rationales(config: RunConfig) -> list[Rationale]:
    is_greedy = config.decoding_method == "greedy"
    texts = {
        "q1": "It is a bird." if is_greedy else "Herons wade.",
        "q2": "Drops fall from them.",
        "q3": "Ice is ice." if is_greedy else "It is frozen water.",
    }
    rows = [
        Rationale.from_row(
            q | {"target_answer": q["answer"], "rationale": texts[q["id"]], "method": config.decoding_method}
        )
        for q in QUESTIONS
    ]
    failed = Rationale.from_row(QUESTIONS[0] | {"id": "q0", "target_answer": "no", "error": "out of memory"})
    if is_greedy:
        return [*rows, failed]
    other = {"kind": "counterfactual", "target_answer": "yes", "rationale": "Herons float."}
    return [*rows, Rationale.from_row(QUESTIONS[0] | other), failed]


def _answers() -> list[StudentAnswer]:
    said = {"q1": ("It has feet.", "Yes"), "q2": ("Rivers flow.", "rivers"), "q3": ("It is.", "yes")}
    return [
        StudentAnswer.from_row(
            q | {"rationale": said[q["id"]][0], "student_answer": said[q["id"]][1], "wrote_answer": True}
        )
        for q in QUESTIONS
    ]
