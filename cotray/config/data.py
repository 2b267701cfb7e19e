"""The section `data`: which questions, what their columns mean, and how they are split into train, dev and
test."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cotray.config.base import Config
from cotray.config.world import WorldConfig
from cotray.records import Task


def _known_layout(name: str) -> str:
    layouts = resources.files("cotray.data").joinpath("published")
    names = sorted(file.name.removesuffix(".yaml") for file in layouts.iterdir())
    if name != "auto" and name not in names:
        raise ValueError(f"'{name}' is no known layout; there are auto, {', '.join(names)}")
    return name


AnswerIs = Literal["text", "label", "index", "number", "boolean"]
AnswerIn = Literal["whole", "hashes", "boxed"]
LayoutName = Annotated[str, AfterValidator(_known_layout)]
Column = Annotated[str | tuple[str, ...], Field(min_length=1)]
"""A column, a path into nested ones such as `question.stem`, a template such as "{premise} {hypothesis}", or
several of these."""


class ColumnsConfig(Config):
    """Which columns of a row are what. Each is the name of a column, a path into nested ones
    (`question.stem`, `choices.0`, and `messages.user` for what a role said), a template with such names in
    braces, or a list of them. What is not named here is read from the column of the same name, if there is
    one."""

    id: Column | None = None
    """What tells a question from all others; made from question and choices where there is none."""
    question: Column | None = None
    """The question; several columns are joined."""
    choices: Column | None = None
    """One column with all choices, or a list with a column for each."""
    answer: Column | None = None
    """The right answer, written as `data.answer_is` says."""
    rationale: Column | None = None
    """What a person wrote to explain the answer, for `method: human`; several columns are joined."""
    facts: Column | None = None
    """One column with a list of facts, or a list with a column for each."""
    split: Column | None = None
    """train, dev (or validation) or test; drawn by the id where there is none."""
    task: Column | None = None
    """The task format of each row; `data.task` is that of all."""


class MappingConfig(Config):
    """From a row's columns to a question: what the section `data` and a known layout have in common."""

    columns: ColumnsConfig = ColumnsConfig()
    """Which columns are what; the section below."""
    task: Task | None = None
    """The task format of every row; without it, what choices and answer show."""
    answer_is: AnswerIs | None = None
    """How an answer names its choice: by its text, by its label (A, B or those of the data), by its index
    from 0, by its number from 1, or as true or false. Without it, by whatever fits one choice alone."""
    answer_in: AnswerIn | None = None
    """Where in its column an open answer stands: all of it, what follows the last ####, or what the last
    \\boxed{} holds. What is written before is the rationale where no column has one."""
    labels: tuple[str, ...] = ()
    """The choices of all questions, where rows do not have their own: [supported, refuted]. An answer is one
    of them, or its number from 0 on."""
    shuffle_choices: bool | None = None
    """Draw the order of the choices by the id, for data in which the right one always has the same place."""


class DataConfig(MappingConfig):
    path: str = "sample"
    """A file, folder or pattern such as `data/*.jsonl` (JSON, CSV, Parquet or Excel; local or s3://),
    `hf:ID` or `hf:ID:CONFIG` for a Hugging Face dataset, `sample` for the questions that come with cotray,
    or `world` for those of the section below."""
    world: WorldConfig = WorldConfig()
    """The made-up world of `path: world`, in which it is known what is true and what misleads."""
    format: LayoutName = "auto"
    """The layout of a published dataset; `auto` recognises it from the columns, unless `columns` says what
    they are. The names are on the page Use your own questions."""
    dataset_split: str = "train"
    """Which split of a Hugging Face dataset to read."""
    revision: str = "main"
    """Branch, tag or commit of a Hugging Face dataset; a run notices when a branch has moved on."""
    limit: int = Field(default=0, ge=0)
    """Use the first so many usable rows; 0 = all."""
    dev_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the rows without a split of their own that becomes dev, drawn by id."""
    test_fraction: float = Field(default=0.25, ge=0, lt=1)
    """Share of them that becomes test, drawn in the same way."""
    max_question_chars: int = Field(default=2000, ge=1)
    """Longer questions (choices included) are dead letters."""

    @property
    def is_world(self) -> bool:
        """Whether the questions are those of the section `world`."""
        return self.path == "world"

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError("dev_fraction + test_fraction must be below 1, or no row is left to train on")
        return self
