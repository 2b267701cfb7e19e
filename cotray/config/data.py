"""The section `data`: which questions, and how they are split into train, dev and test."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cotray.config.base import Config
from cotray.config.world import WorldConfig


class DataConfig(Config):
    path: str = "sample"
    """A file or folder (.jsonl, .parquet, .csv; local or s3://), `hf:ID` for a Hugging Face dataset,
    `sample` for the questions that come with cotray, or `world` for those of the section below."""
    world: WorldConfig = WorldConfig()
    """The made-up world of `path: world`, in which it is known what is true and what misleads."""
    format: Literal["auto", "cotray", "strategyqa", "creak", "commonsenseqa", "qasc"] = "auto"
    """Layout of the rows; `auto` recognises it from the columns."""
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
