"""cotray from Python and in notebooks, without a run folder and without Ray.

    import cotray

    rows = cotray.contrastive_generate(model, tokenizer, rows, method="contrast-wrong")
    student = cotray.Student.load("runs/mine/student")
    rows = cotray.simulate(student.answer_all(rows), "models/simulator")
    print(cotray.las(rows).las)

Rows are a list of dicts, a pandas DataFrame or a `datasets.Dataset`, and come back as such with more columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cotray.config import DataConfig, ScoringConfig, TeacherConfig
from cotray.config.teacher import DecodingConfig
from cotray.data.columns import UnusableRow
from cotray.data.perturbation import Source, answer_pool, requests_of
from cotray.data.questions import parse_pair
from cotray.errors import DataError
from cotray.prompts.student import trained_prompt
from cotray.records import FIXED_CHOICES, QAPair, StudentAnswer, Task, task_of
from cotray.scoring.las import LasReport
from cotray.scoring.las import las as las_of
from cotray.storage.manifest import Manifest
from cotray.storage.stage_states import places

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cotray.scoring.student import Student as TrainedStudent

Rows = TypeVar("Rows")
"""A list of dicts, a pandas DataFrame or a datasets.Dataset."""
Method = Literal["greedy", "contrast-empty", "contrast-wrong"]
UNDERSTOOD = ("id", "task", "question", "choices", "answer")
WRITTEN = ("contrast_answer", "rationale", "stop_reason", "error")


def contrastive_generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    *,
    method: Method = "contrast-wrong",
    data: dict[str, Any] | None = None,
    teacher: dict[str, Any] | None = None,
    seed: int = 42,
    **decoding: Any,
) -> Rows:
    """A rationale for the answer of every row, by contrastive decoding with a model that is in memory.

    Added columns: `rationale`, `contrast_answer` (what it was decoded against), `stop_reason` and `error`
    ("" where there is a rationale), and `id`, `task`, `question`, `choices`, `answer` as they are understood.
    `data`: of the section `data`, such as {"columns": {...}}; `teacher`: of the section `teacher`, such as
    {"prompt": "chat", "num_demonstrations": 2}; `decoding`: of `teacher.decoding`, such as weight=0.5 or
    max_new_tokens=64. The model is as it was afterwards.

    Raises DataError, naming the row, where one cannot be used.
    """
    from cotray.teacher.encoder_decoder_teacher import transformers_teacher

    mapping = DataConfig(**(data or {}))
    pairs = [_pair(index, row, mapping, seed) for index, row in enumerate(_dicts(rows))]

    def pool(task: Task) -> tuple[str, ...]:
        return answer_pool((pair.answer for pair in pairs if pair.task == task), seed)

    perturbation = "empty" if method == "contrast-empty" else "wrong"
    requests = [requests_of(pair, perturbation, Source(seed, pool=pool))[0] for pair in pairs]
    config = TeacherConfig(**{"model": "in memory", "decoding": DecodingConfig(**decoding)} | (teacher or {}))
    attention: Any = model.config._attn_implementation
    try:
        teaching = transformers_teacher(config, method=method, seed=seed, loaded=(model, tokenizer))
        made = [row.to_row() for row in teaching.generate(requests)]
    finally:
        model.set_attn_implementation(attention)
    return _with(rows, [{name: row[name] for name in (*UNDERSTOOD, *WRITTEN)} for row in made])


class Student:
    """A trained student: a folder that `train` wrote."""

    def __init__(self, trained: TrainedStudent) -> None:
        self._trained = trained

    @classmethod
    def load(cls, folder: str, *, max_new_tokens: int = 128, dtype: str = "auto") -> Student:
        """`folder`: such as runs/mine/student; its manifest says with which tags it was trained."""
        from cotray.scoring.student import Student as TrainedStudent

        there = [path for path in map(Path, places(Manifest, folder)) if path.is_file()]
        settings = json.loads(there[0].read_text("utf-8"))["settings"] if there else {}
        tags = settings.get("training", {}).get("tags", "on")
        config = ScoringConfig(max_new_tokens=max_new_tokens)
        prompt = trained_prompt(tags)
        return cls(TrainedStudent(folder, dtype=dtype, config=config, prompt=prompt, seed=0, method=""))

    def answer(
        self,
        question: str,
        choices: Sequence[str] = (),
        *,
        task: Task | None = None,
        rationale: str | None = None,
    ) -> dict[str, Any]:
        """`rationale` and `answer`, whether the student `wrote_answer` by itself, and the `probabilities` of
        the choices, 1 together. With a `rationale` given, the answer is what follows from it."""
        pair = _question({"id": "0", "question": question, "choices": choices, "task": task})
        [reply] = self._trained.respond([pair], [rationale])
        weights = [math.exp(logprob) for logprob in reply.choice_logprobs]
        shares = {c: w / sum(weights) for c, w in zip(pair.choices, weights, strict=True)} if weights else {}
        return {
            "rationale": reply.rationale,
            "answer": reply.answer,
            "wrote_answer": reply.wrote_answer,
            "probabilities": shares,
        }

    def answer_all(self, rows: Rows) -> Rows:
        """Rows with `question` and, where they have any, `choices` and `task`; added are the student's
        `rationale`, `student_answer` and `wrote_answer`."""
        pairs = [_question(row | {"id": str(index)}) for index, row in enumerate(_dicts(rows))]
        replies = self._trained.respond(pairs, [None] * len(pairs))
        return _with(
            rows,
            [
                {"rationale": r.rationale, "student_answer": r.answer, "wrote_answer": r.wrote_answer}
                for r in replies
            ],
        )


def simulate(
    rows: Rows, model: str, *, mode: Literal["trained", "prompted"] = "trained", dtype: str = "auto"
) -> Rows:
    """What a simulator predicts the student answered: `sim_x` from the question, `sim_e` from the rationale
    and `sim_xe` from both.

    rows: with `question`, `choices`, `rationale` and `student_answer`. `model`: a trained simulator's folder,
    or with `mode="prompted"` any language model.
    """
    from cotray.scoring.simulator import Simulator

    answers = [
        StudentAnswer.from_row(
            _question(row | {"id": str(index)}).to_row()
            | {"rationale": row["rationale"], "student_answer": row["student_answer"]}
        )
        for index, row in enumerate(_dicts(rows))
    ]
    made = Simulator(model, mode=mode, dtype=dtype).simulate(answers)
    return _with(rows, [{arm: getattr(row, arm) for arm in ("sim_x", "sim_e", "sim_xe")} for row in made])


def las(rows: Any, *, num_resamples: int = 10_000, seed: int = 0) -> LasReport:
    """LAS of rows with `student_answer`, `sim_x`, `sim_e` and `sim_xe`, with its bootstrap interval."""
    dicts = _dicts(rows)
    columns = [[str(row[name]) for row in dicts] for name in ("student_answer", "sim_x", "sim_e", "sim_xe")]
    return las_of(*columns, num_resamples=num_resamples, seed=seed)


def _pair(index: int, row: dict[str, Any], mapping: DataConfig, seed: int) -> QAPair:
    try:
        return parse_pair(row, mapping, seed=seed)
    except UnusableRow as error:
        raise DataError(f"row {index}: {error}") from None


def _question(row: dict[str, Any]) -> QAPair:
    """A question whose answer nobody has to know."""
    given = row.get("choices")
    own = () if given is None else tuple(str(choice) for choice in given)
    task: Task = row.get("task") or task_of(own)
    return QAPair(
        str(row["id"]), task, str(row["question"]), FIXED_CHOICES.get(task) or own, "", split="train"
    )


def _dicts(rows: Any) -> list[dict[str, Any]]:
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        return rows.to_dict("records")
    return [dict(row) for row in rows]


def _with(rows: Any, more: list[dict[str, Any]]) -> Any:
    """The rows with more columns, in the form in which they came."""
    merged = [row | added for row, added in zip(_dicts(rows), more, strict=True)]
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return type(rows)(merged, index=rows.index)
    return type(rows).from_list(merged) if hasattr(rows, "from_list") else merged
