"""Run folders and items with rationales made by hand, as the criteria's tests rate them."""

from __future__ import annotations

from pathlib import Path

from cotray.commands.annotate import main
from cotray.config import Method, RunConfig, parse_config
from cotray.criteria.rated_items import Item, Source
from cotray.records import Rationale, StudentAnswer
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint

METHODS: tuple[Method, ...] = ("greedy", "contrast-wrong", "contrast-wrong+counterfactual")
MODELS = ("big-teacher-20b", "small-student-1b")


def item(id_: str, *sources: tuple[str, str], rationale: str = "Wings lift.") -> Item:
    made = tuple(Source(f"record-{id_}", writer, method) for writer, method in sources)  # type: ignore
    return Item(id_, "Can it fly?", ("yes", "no"), "yes", rationale, made)


def run_folder(tmp_path: Path, *, num_questions: int = 12) -> RunConfig:
    """Three methods with `num_questions` test questions, half as many train ones, and a failed row each.

    The two contrastive methods share their teacher's rationales. Only the last has a student's answers.
    """
    config = parse_config(
        {
            "run_dir": str(tmp_path / "runs/demo"),
            "methods": METHODS,
            "teacher": {"model": MODELS[0]},
            "student": {"model": MODELS[1]},
            "scoring": {"num_resamples": 2000},
        }
    )
    for method in METHODS:
        one = config.for_method(method)
        folder = RunFolder(one.run_dir)
        teacher = [_row(n, one.decoding_method, num_questions) for n in range(num_questions * 3 // 2)]
        teacher.append(Rationale(**_pair(99), method=one.decoding_method, error="out of memory"))
        _finish(folder, "rationales", teacher, Rationale)
        if method == METHODS[-1]:
            answers = [_answer(n, method) for n in range(num_questions)]
            _finish(folder, "answers", answers, StudentAnswer)
    return config


def export_folder(tmp_path: Path) -> Path:
    """c.yaml, and in a/ an export of 4 rationales of each of the three groups."""
    config = run_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(f"run_dir: {config.run_dir}\nmethods: {list(METHODS)}")
    options = ["--rationales=4", "--annotators=2", "--out", str(tmp_path / "a")]
    assert main(["export", "-c", str(tmp_path / "c.yaml"), *options]) == 0
    return tmp_path


def _pair(n: int) -> dict:
    return {
        "id": f"record-{n}",
        "task": "multiple_choice",
        "question": f"Which bird has colour {n}?",
        "choices": ("robin", "magpie"),
        "answer": "robin",
        "split": "test",
        "target_answer": "robin",
    }


def _row(n: int, method: str, num_test: int) -> Rationale:
    text = f"{'Plainly' if method == 'greedy' else 'Because'} number {n} is on its <b>wing</b>."
    split = "test" if n < num_test else "train"
    row = _pair(n) | {"split": split, "rationale": text, "method": method, "teacher": MODELS[0]}
    return Rationale.from_row(row)


def _answer(n: int, method: str) -> StudentAnswer:
    row = _pair(n) | {"student_answer": "magpie", "rationale": f"Magpie {n} sings.", "method": method}
    return StudentAnswer.from_row(row)


def _finish(folder: RunFolder, stage: str, rows: list, record: type) -> None:
    folder.write_records(f"{stage}/part-0.parquet", rows, record, version=fingerprint({}, ""))
    folder.finish(Manifest(stage, {}, "", len(rows), len(rows), 0))
