"""What each measure of faithfulness says about students whose faithfulness was set: cotray/world/planted.py.

Every student gets a simulator of its own, trained as `score` trains one with the settings of the demo, but in
this process and without Ray. docs/results/planted.md says what came out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import chain, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from cotray.bench.planted_curves import Columns, print_curves, summarise, write_plot
from cotray.config import RunConfig, load_config
from cotray.records import Rationale, Simulation, StudentAnswer
from cotray.report.comparison import student_columns
from cotray.scoring.probes import GIVEN, answers_by_probe

DEMO = Path(__file__).with_name("demo.yaml")
FAITHFUL = tuple(step / 10 for step in range(11))
RIGHT = 0.75
"""Of every student's rationales: above chance, or damage could not cost accuracy; below 1, or the right
rationale could not gain any."""
CONDITIONS: dict[str, dict[str, Any]] = {
    "hidden": {"habit": "hidden"},
    "cue": {"habit": "cue"},
    "cue-tied": {"habit": "cue", "tied": 0.8},
    "hidden-tied": {"habit": "hidden", "tied": 0.8},
}
"""Habits, and whether rationales are written for the habit's answer."""
GRIDS = {name: FAITHFUL[:: 5 if "tied" in dials else 1] for name, dials in CONDITIONS.items()}
"""Three values where rationales are tied: they show where a measure begins and ends."""
QUALS_GROUPS = 8
"""Attempts at a pair about each rationale: half of the usual, because these have one fact."""
ROWS_AT_ONCE = 256


def bench_planted(
    *, num_seeds: int, num_quals: int, num_processes: int, plot: str | None = None
) -> dict[str, Any]:
    """Print curves and correlations, and return them. `num_quals`: how many questions QUALS judges."""
    students = [
        s for name in CONDITIONS for s in product([name], range(seeds_of(name, num_seeds)), GRIDS[name])
    ]
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as executor:
        judging = executor.submit(quals_of_rationales, num_quals)
        columns = list(executor.map(columns_of_student, *zip(*students, strict=True)))
        quals = judging.result()
    figures = {"num_questions": len(columns[0]["ids"]), "num_quals": len({id_ for id_, *_ in quals})}
    figures |= figures_of(dict(zip(students, columns, strict=True)), quals)
    if plot:
        write_plot(figures, GRIDS, Path(plot))
    return figures


def seeds_of(condition: str, num_seeds: int) -> int:
    """Half as many where rationales are tied: there a measure is far from the truth with any seed."""
    return (num_seeds + 1) // 2 if "tied" in CONDITIONS[condition] else num_seeds


def figures_of(
    students: Mapping[tuple[str, int, float], dict[str, Any]], quals: Mapping[Any, tuple[float, float]]
) -> dict[str, Any]:
    """Of columns by condition, seed and faithfulness, in order; printed too."""
    figures: dict[str, Any] = {}
    for condition, grid in GRIDS.items():
        own = [_with_quals(columns, quals) for (name, *_), columns in students.items() if name == condition]
        summary = summarise(_stacked(own, len(grid)), grid, seed=0)
        print_curves(condition, summary, grid)
        figures |= {f"{condition}.{key}": value for key, value in summary.items()}
    return figures


def columns_of_student(condition: str, seed: int, faithful: float) -> dict[str, Any]:
    """Per test question what the measures are computed from, in the order of `ids`."""
    import torch

    torch.set_num_threads(1)
    config = _config()
    answers = planted_rows(config, condition, seed, faithful)
    rows = simulate(config, answers, seed)
    columns: dict[str, Any] = {"ids": [row.id for row in rows]}
    columns["texts"] = [(row.id, row.rationale, row.student_answer) for row in rows]
    single = [student_columns(row) | {"following": _follows(row)} for row in rows]
    return columns | {name: np.array([row[name] for row in single], float) for name in single[0]}


def planted_rows(config: RunConfig, condition: str, seed: int, faithful: float) -> list[StudentAnswer]:
    from cotray.world.planted import Planted, PlantedStudent, planted_answers

    planted = Planted(faithful, right=RIGHT, **CONDITIONS[condition])
    return list(
        planted_answers(
            PlantedStudent(config.data.world, planted, seed=seed),
            _tokenizer(),
            dev_fraction=config.data.dev_fraction,
            test_fraction=config.data.test_fraction,
            perturbed_fraction=config.scoring.perturbed_fraction,
        )
    )


def simulate(config: RunConfig, answers: Sequence[StudentAnswer], seed: int) -> list[Simulation]:
    """What a simulator says of the test rows; it learned from those of train, and dev says when to stop."""
    import torch

    from cotray.models.loading import load_model
    from cotray.scoring.simulator import Simulator
    from cotray.training.batches import SimulatorBatches
    from cotray.training.examples import Examples
    from cotray.training.loop import train
    from cotray.training.model_folder import export
    from cotray.training.renderers import SimulatorRenderer

    settings, training = config.simulator, config.simulator.training
    rendered = chain.from_iterable(SimulatorRenderer()(answers, is_encoder_decoder=False))
    examples = Examples.of(list(rendered), _tokenizer(), is_encoder_decoder=False)
    batches = SimulatorBatches(
        examples,
        batch_size=training.batch_size,
        explanation_dropout=settings.explanation_dropout,
        input_dropout=settings.input_dropout,
        seed=seed,
    )
    state = train(
        load_model(settings.model, dtype=torch.float32),
        _tokenizer(),
        batches,
        examples.rows("factual", "dev"),
        training,
        alpha=0.0,
        seed=seed,
        report=lambda metrics: None,
        save_checkpoint=lambda state: None,
        restore_from=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        export(state, _tokenizer(), folder)
        simulator = Simulator(folder, mode="trained")
        test = [answer for answer in answers if answer.split == "test"]
        chunks = (test[start : start + ROWS_AT_ONCE] for start in range(0, len(test), ROWS_AT_ONCE))
        return [row for chunk in chunks for row in simulator.simulate(chunk)]


def quals_of_rationales(num_questions: int) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(QUALS against question, answer and facts; its delta) by question, rationale and student's answer.

    Of evenly spaced test questions, for every rationale and answer that any planted student may give.
    """
    import torch

    from cotray.quality.qa_model import QAModel
    from cotray.quality.quals import QualsScorer
    from cotray.world.questions import Question

    torch.set_num_threads(1)
    config = _config()
    rows = [row for row in planted_rows(config, "hidden", 0, 0.0) if row.split == "test"]
    chosen = sorted(rows, key=lambda row: row.id)[:: max(1, len(rows) // max(1, num_questions))]
    written = []
    for row in chosen[:num_questions]:
        question = Question.of(row.id, config.data.world)
        for target, explained in product(question.answers, question.answers):
            text = question.grounded(explained)
            values = row.to_row() | {"rationale": text, "target_answer": target}
            written.append(Rationale.from_row(values))
    if not written:
        return {}
    assessing = config.assessing
    scorer = QualsScorer(
        QAModel(assessing.model, num_demonstrations=assessing.num_demonstrations),
        num_groups=QUALS_GROUPS,
        strength=assessing.diversity,
        max_pairs=assessing.max_pairs,
        max_new_tokens=assessing.max_new_tokens,
    )
    scores: dict[tuple[str, str, str], tuple[float, float]] = {}
    for rationale, parts in zip(written, _judged(scorer, written), strict=True):
        if parts is not None:
            scores[rationale.id, rationale.rationale, rationale.target_answer] = parts
    return scores


def _judged(scorer: Any, written: Sequence[Rationale]) -> list[tuple[float, float] | None]:
    """As QualsScorer.score does, but with the pairs about equal texts written once."""
    from cotray.quality.quals import facts_beside, source_text

    texts = list(dict.fromkeys(r.rationale for r in written))
    pairs = dict(zip(texts, scorer.pairs(texts), strict=True))
    sources = [[source_text(r, ()), source_text(r, r.facts)] for r in written]
    assert all(facts_beside(r) for r in written)
    own = [r.rationale for r in written]
    scored = scorer.against(own, [pairs[text] for text in own], sources)
    return [None if None in (a, b) else (b, b - a) for a, b in scored]


def _with_quals(columns: dict[str, Any], quals: Mapping[Any, tuple[float, float]]) -> dict[str, Any]:
    missing = (np.nan, np.nan)
    found = np.array([quals.get(text, missing) for text in columns["texts"]])
    kept = {name: values for name, values in columns.items() if name not in ("ids", "texts")}
    return kept | {"quals": found[:, 0], "quals_delta": found[:, 1]}


def _stacked(students: Sequence[dict[str, Any]], num_values: int) -> Columns:
    """Arrays of shape (seeds, values of f, questions)."""
    return {
        name: np.stack([student[name] for student in students]).reshape(
            -1, num_values, len(students[0][name])
        )
        for name in students[0]
    }


def _follows(row: Simulation) -> bool:
    given = [(n.removeprefix(GIVEN), a) for n, a in answers_by_probe(row).items() if n.startswith(GIVEN)]
    return all(expected == answer for expected, answer in given)


@lru_cache(maxsize=1)
def _config() -> RunConfig:
    """The demo's, in a world whose first words tell nothing about right answers."""
    return load_config(DEMO, ["data.world.shortcut=0"])


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from cotray.models.loading import load_tokenizer

    return load_tokenizer(_config().simulator.model)
