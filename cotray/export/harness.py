"""Test questions as tasks of lm-evaluation-harness, which asks a served student like any other model.

One task for each kind of question, `cotray_KIND`: the endpoint has to be told the kind where the text does
not show the choices, and the harness gives the same fields to all rows of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cotray.export.conversations import asked
from cotray.export.dataset import Line
from cotray.export.finished_run import FinishedRun
from cotray.prompts.student import ANSWER_PHRASE
from cotray.records import FIXED_CHOICES

PREFIX = "cotray_"


def rows(run: FinishedRun) -> Iterator[Line]:
    """`question`, with its choices, and `answer` of each test question."""
    seen = set()
    for row in run.rationales():
        if row.split == "test" and row.id not in seen:
            seen.add(row.id)
            yield (
                f"{PREFIX}{row.task}.jsonl",
                {"id": row.id, "question": asked(row), "answer": row.answer},
            )


def tasks(run: FinishedRun, out: Path, files: Iterable[str]) -> dict[str, str]:
    """File name -> text, of the YAML file beside each file of rows in the folder `out`."""
    return {
        name.replace(".jsonl", ".yaml"): yaml.safe_dump(_task(run, out.resolve() / name), sort_keys=False)
        for name in files
    }


def _task(run: FinishedRun, path: Path) -> dict[str, Any]:
    task = path.stem.removeprefix(PREFIX)
    told = {"cotray": {"task": task}} if task in FIXED_CHOICES or task == "number" else {}
    return {
        "task": path.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "max_gen_toks": run.config.scoring.max_new_tokens, **told},
        "filter_list": [
            {
                "name": "answer",
                "filter": [
                    # The last phrase counts, as in cotray: the first part takes all it can.
                    {"function": "regex", "regex_pattern": rf"(?s).*{ANSWER_PHRASE.strip()}\s+(.*?)\.?\s*$"},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        ],
        "metadata": {"version": 1},
    }
