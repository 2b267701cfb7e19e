"""The section `data.world`: a small made-up world whose facts, shortcuts and faithfulness are known.

docs/explanation/world.md says what each dial does.
"""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import parse_qsl, urlencode

from pydantic import Field, model_validator

from cotray.config.base import Config, Fraction

PREFIX = "world:"
WorldTask = Literal["yes_no", "true_false", "multiple_choice", "open"]
ROLES = ("teacher", "student", "simulator")
NUM_VALUES = 4
"""Of a trait, such as four colours; kinds share them evenly."""


class WorldConfig(Config):
    seed: int = 0
    """Of names and facts."""
    num_animals: int = Field(default=320, ge=8, le=2000)
    """Made-up animals; each is of one kind."""
    num_kinds: int = Field(default=8, ge=4, le=40, multiple_of=NUM_VALUES)
    """Made-up kinds; each can do half of the abilities, and each ability is one of half of the kinds."""
    num_abilities: int = Field(default=8, ge=2, le=12, multiple_of=2)
    """Yes-or-no questions about each animal."""
    tasks: tuple[WorldTask, ...] = Field(default=("yes_no",), min_length=1)
    """Formats of the questions: abilities are asked as yes_no or true_false, traits (colour, home, food,
    size) as multiple_choice or open."""
    shortcut: Fraction = 0.5
    """How well the first word of a question tells its answer in train and dev: 0 not at all, 1 always. In
    test the word is drawn whatever the answer is."""
    vacuous: Fraction = 0.7
    """How likely the teacher is to write a rationale that only restates the question, the same for every
    answer. Above 0.5 greedy decoding writes nothing else."""
    knowledge: Fraction = 1.0
    """Share of the animals whose kind the teacher knows; for the others it makes one up."""
    leak: Fraction = 0.0
    """Share of the animals about which the teacher's grounded rationales state the answer outright."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _asks_a_format_once(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("data.world.tasks names a format twice")
        return self

    def model_name(self, role: str) -> str:
        """`world:ROLE?...` with all of this that the model's weights or vocabulary depend on."""
        excluded = {"shortcut"} if role == "teacher" else {"shortcut", "vacuous", "knowledge", "leak"}
        values = {key: value for key, value in self.model_dump().items() if key not in excluded}
        return f"{PREFIX}{role}?{urlencode(values | {'tasks': ','.join(self.tasks)}, safe=',')}"


def complete_model_name(name: str, world: WorldConfig) -> str:
    """`world:ROLE` with the section `data.world`; ValueError where a complete name is of another world."""
    role = role_of(name)
    complete = world.model_name(role)
    if "?" in name and name != complete:
        raise ValueError(f"model '{name}' is of another world than data.world; write {PREFIX}{role}")
    return complete


def parse_model_name(name: str) -> tuple[str, WorldConfig]:
    """The role and the world of a complete model name. ValueError where it is none."""
    values: dict[str, object] = dict(parse_qsl(name.partition("?")[2]))
    if "tasks" in values:
        values["tasks"] = tuple(str(values["tasks"]).split(","))
    return role_of(name), WorldConfig.model_validate(values)


def role_of(name: str) -> str:
    """teacher | student | simulator, from a model's name. ValueError where it is none of them."""
    role = name.removeprefix(PREFIX).partition("?")[0]
    if role not in ROLES:
        raise ValueError(f"model '{name}': known are {', '.join(PREFIX + known for known in ROLES)}")
    return role
