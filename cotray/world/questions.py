"""What is asked in the world, as rows of cotray's own layout, and what explains an answer to it.

    question    Really, can a dalo swim?        the first word is the cue
    grounded    Wugs include the dalo.          the kind fits the answer that is explained
    vacuous     The question is about a dalo.   the same for every answer

A grounded rationale begins with the kind, because contrast acts on the first token in which the branches
differ: if grounded and vacuous ones began alike, the likelier of the two would be written under both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cotray.config.world import WorldConfig
from cotray.records import BINARY_CHOICES, QAPair, Split, Task
from cotray.seeds import seeded
from cotray.world.facts import TRAITS, World, world_of

CUES = ("Really", "Perhaps", "Honestly", "Surely")
"""The i-th goes with the i-th answer; binary questions have the first two."""
ANY_ANIMAL = "creature"
"""In place of an animal's name, where a text is about no particular one."""
_ASKED = {
    "colour": "what colour is a {}?",
    "home": "where does a {} live?",
    "food": "what does a {} eat?",
    "size": "how big is a {}?",
}


@dataclass(frozen=True)
class Question:
    """One animal and what is asked about it, in one of the four formats."""

    world: World
    task: Task
    animal: str
    attribute: str
    """An ability or a trait."""

    @classmethod
    def of(cls, id: str, config: WorldConfig) -> Question:
        """The question of a row's id."""
        task, animal, attribute = id.split("-")
        return cls(world_of(config), task, animal, attribute)  # type: ignore[arg-type]

    @property
    def id(self) -> str:
        return f"{self.task}-{self.animal}-{self.attribute}"

    @property
    def answers(self) -> tuple[str, ...]:
        """In the order of the cues."""
        return BINARY_CHOICES.get(self.task) or TRAITS[self.attribute]

    @property
    def gold(self) -> str:
        return self.answer_of(self.world.kind_of(self.animal))

    def answer_of(self, kind: str) -> str:
        """The right answer if the animal were of this kind."""
        value = self.world.value(kind, self.attribute)
        return self.answers[("yes", "no").index(value)] if self.task in BINARY_CHOICES else value

    def text(self, cue: str | None) -> str:
        """With its first word, or without one."""
        return f"{cue}, {self._plain}" if cue else self._plain

    def kinds_for(self, answer: str) -> list[str]:
        """The kinds that a grounded rationale for `answer` may name: the animal's own where that fits, else
        the next one in a circle. A teacher that does not know the animal makes up any that fits."""
        if not self.world.knows(self.animal):
            return [kind for kind in self.world.kinds if self.answer_of(kind) == answer]
        circle = self.world.circle_from(self.world.kind_of(self.animal))
        return [next(kind for kind in circle if self.answer_of(kind) == answer)]

    def grounded(self, answer: str, kind: str = "") -> str:
        """The rationale for an answer; of a teacher that knows the animal there is just this one."""
        reason = f", so {answer}" if self.world.leaks(self.animal) else ""
        return membership(kind or self.kinds_for(answer)[0], self.animal, reason)

    @property
    def vacuous(self) -> str:
        return f"The question is about a {self.animal}."

    @property
    def facts(self) -> list[str]:
        """Both steps from the question to its answer."""
        kind = self.world.kind_of(self.animal)
        value = self.world.value(kind, self.attribute)
        kinds = plural(kind)
        steps = {
            "colour": f"{kinds} are {value}.",
            "home": f"{kinds} live in the {value}.",
            "food": f"{kinds} eat {value}.",
            "size": f"{kinds} are {value}.",
        }
        can = "can" if value == "yes" else "cannot"
        return [
            f"A {self.animal} is a {kind}.",
            steps.get(self.attribute, f"{kinds} {can} {self.attribute}."),
        ]

    def pair(self, split: Split, cue: str | None) -> QAPair:
        choices = list(self.answers) if self.task != "open" else []
        if self.task == "multiple_choice":
            seeded(self.world.config.seed, self.id, "order of choices").shuffle(choices)
        return QAPair(
            self.id,
            self.task,
            self.text(cue),
            tuple(choices),
            self.gold,
            split,
            membership(self.world.kind_of(self.animal), self.animal),
            tuple(self.facts),
        )

    @property
    def _plain(self) -> str:
        if self.task == "true_false":
            return f"a {self.animal} can {self.attribute}."
        if self.task == "yes_no":
            return f"can a {self.animal} {self.attribute}?"
        return _ASKED[self.attribute].format(self.animal)


def membership(kind: str, animal: str, reason: str = "") -> str:
    """What a grounded rationale says."""
    return f"{plural(kind)} include the {animal}{reason}."


def plural(kind: str) -> str:
    """As a sentence begins with it."""
    return f"{kind.capitalize()}s"


def questions(config: WorldConfig) -> Iterator[Question]:
    """Every question there is, in the formats of the configuration."""
    world = world_of(config)
    for task in config.tasks:
        for animal in world.animals:
            for attribute in world.abilities if task in BINARY_CHOICES else TRAITS:
                yield Question(world, task, animal, attribute)


def cue_of(question: Question, split: Split, shortcut: float) -> str:
    """In train and dev the answer's own with probability `shortcut`, else any; in test always any."""
    random_ = seeded(question.world.config.seed, question.id, "cue")
    is_told = random_.random() < shortcut and split != "test"
    place = question.answers.index(question.gold) if is_told else random_.randrange(len(question.answers))
    return CUES[place]


def rows(config: WorldConfig, *, dev_fraction: float, test_fraction: float) -> Iterator[dict[str, Any]]:
    """All questions as raw rows. Splits are drawn by question: animals of test are in train with others."""
    for question in questions(config):
        draw = seeded(config.seed, question.id, "split").random()
        split: Split = (
            "test" if draw < test_fraction else "dev" if draw < test_fraction + dev_fraction else "train"
        )
        yield question.pair(split, cue_of(question, split, config.shortcut)).to_row()
