"""export: a finished run's rationales, test questions or student, in a folder that other programs read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.export import conversations, harness
from cotray.export.cards import dataset_card, model_card
from cotray.export.dataset import Line, configs_of, llama_factory, replaced, write_lines
from cotray.export.finished_run import FinishedRun, finished_run
from cotray.export.preferences import preference
from cotray.storage.checkpoints import as_folder

STUDENT = "student"
"""What is exported as a model; all else is data."""


@dataclass(frozen=True)
class Format:
    """One way to write the rows of a run."""

    rows: Callable[[FinishedRun, RunConfig], Iterator[Line]]
    about: str
    """For the card."""
    columns: Mapping[str, Any]
    """What LLaMA-Factory has to be told."""
    has_counterfactual: bool = False


ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
FORMATS = {
    "chat": Format(
        lambda run, _: conversations.chat(run),
        "`messages` has a question of the user and what the assistant is to say: rationale and answer.",
        {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": ROLES},
    ),
    "completion": Format(
        lambda run, _: conversations.completion(run),
        "`prompt` and `completion` are the sequences that cotray's own students learn. With a loss on the "
        "completion alone, trainers learn what `train` does, but for the weight between both kinds. Where "
        "`kind` is `counterfactual`, the rationale belongs to the prompt, and only the answer is learned.",
        {"columns": {"prompt": "prompt", "response": "completion"}},
        has_counterfactual=True,
    ),
    "alpaca": Format(
        lambda run, _: conversations.alpaca(run),
        "`instruction` is the question, `input` its choices, and `output` the rationale and the answer.",
        {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    ),
    "preference": Format(
        preference,
        "`chosen` is to be preferred to `rejected`, as an answer to `prompt`; `question`, `better` and "
        "`worse` are the same as plain texts. In `decoding/`, both are for the right answer, the better one "
        "by contrastive decoding and the worse one by greedy decoding. In `student/`, the better one is the "
        "teacher's, and the worse one the student's own where it answered wrongly.",
        {"ranking": True, "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"}},
    ),
}


def export(config: RunConfig, to: str, out: Path) -> str:
    """Write the folder `out`; returns a line for each file. Nothing of it is there before all of it is."""
    run = finished_run(config)
    with replaced(out) as folder:
        if to == STUDENT:
            lines = _student(run, folder)
        elif to == "lm-eval":
            lines = _tasks(run, folder, out)
        else:
            lines = _rows(run, config, FORMATS[to], folder)
    return "\n".join([f"{out}: {to} of {run.folder.root}", *lines])


def _rows(run: FinishedRun, config: RunConfig, form: Format, folder: Path) -> list[str]:
    files = write_lines(folder, form.rows(run, config))
    if not files:
        raise DataError(
            f"{run.folder.root}: has nothing to export so; preferences need a greedy run beside a "
            "contrastive one (methods), or a student's wrong answers (run `cotray score`)"
        )
    card = dataset_card(run, form.about, files, configs_of(files), has_counterfactual=form.has_counterfactual)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "dataset_info.json").write_text(llama_factory(files, form.columns), encoding="utf-8")
    return _counted(files)


def _tasks(run: FinishedRun, folder: Path, out: Path) -> list[str]:
    files = write_lines(folder, harness.rows(run))
    if not files:
        raise DataError(f"{run.folder.root}: has no test question; raise data.test_fraction")
    for name, text in harness.tasks(run, out, files).items():
        (folder / name).write_text(text, encoding="utf-8")
    about = (
        "The test questions with their answers, a file for each kind, and beside it the task of "
        "lm-evaluation-harness that asks them. The task names the place of its rows: where the folder was "
        "moved, change `data_files` in it."
    )
    configs = [
        {"config_name": Path(name).stem, "data_files": [{"split": "test", "path": name}]} for name in files
    ]
    card = dataset_card(run, about, files, configs, has_counterfactual=False)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return _counted(files)


def _student(run: FinishedRun, folder: Path) -> list[str]:
    if run.student is None:
        raise DataError(
            f"{run.folder.root}: has no trained student; run `cotray train`, of another method than few-shot"
        )
    manifest = run.folder.require("student", "train")
    names = [entry.name for entry in manifest.files or ()]
    with as_folder(run.folder.uri("student")) as source:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(source, name), folder / name)
    (folder / "README.md").write_text(model_card(run), encoding="utf-8")
    return [f"  {name}" for name in [*names, "README.md"]]


def _counted(files: Mapping[str, int]) -> list[str]:
    return [f"  {name}: {count:,} rows" for name, count in files.items()]
