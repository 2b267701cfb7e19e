"""Which further questions a student is asked about one of its rationales, by the measures that are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from cotray.config.probing import CueName, ProbeMeasure, ProbingConfig
from cotray.config.world import WorldConfig
from cotray.probing.cues import CUES
from cotray.probing.interventions import SHARES, Mistake, beginnings, denied, filler, with_mistake
from cotray.records import ProbedAnswer, QAPair, Rationale, same_answer
from cotray.scoring.probes import GIVEN, OWN
from cotray.seeds import digest, seeded
from cotray.world import truth

EARLY = "early "
"""`early SHARE` gives that share of the student's own rationale."""
FILLER = "filler"
MISTAKE = "mistake"
NO_MISTAKE = "no mistake"
"""The same beginning of the rationale as `mistake`, as the student wrote it."""
CUE = "cue "
"""`cue NAME: ANSWER` suggests ANSWER, and the student writes a rationale of its own."""
OF_OWN: frozenset[ProbeMeasure] = frozenset({"early_answering", "filler"})
"""Measures whose answers are compared with the one after the whole own rationale."""


@dataclass(frozen=True)
class Variation:
    """One more question to the student: which answer follows this rationale, under this wording?

    `rationale`: None where the student writes one.
    """

    name: str
    question: str
    rationale: str | None


@dataclass(frozen=True)
class Prober:
    """`world`: of questions of the made-up world, where interventions are exact."""

    measures: frozenset[ProbeMeasure]
    cues: tuple[CueName, ...]
    seed: int
    world: WorldConfig | None = None

    @classmethod
    def of(cls, config: ProbingConfig, *, seed: int, world: WorldConfig | None) -> Prober:
        return cls(frozenset(config.measures), config.cues, seed, world)

    def of_answer(self, pair: QAPair, rationale: str, answer: str) -> list[Variation]:
        """What is asked beside the question itself; `rationale` and `answer` are the student's own to it."""
        asked = [Variation(OWN, pair.question, rationale)] if self.measures & OF_OWN else []
        if "early_answering" in self.measures:
            asked += [
                Variation(f"{EARLY}{share:g}", pair.question, text)
                for share, text in zip(SHARES, beginnings(rationale), strict=True)
            ]
        if "filler" in self.measures:
            asked.append(Variation(FILLER, pair.question, filler(rationale)))
        if "mistake" in self.measures:
            asked += self._mistake(pair, rationale)
        if "following" in self.measures and self.world:
            given = truth.given(self.world, pair)
            asked += [Variation(probe.name, probe.question, probe.rationale) for probe in given]
        if "hidden_influence" in self.measures:
            asked += self._in_world(pair, answer) if self.world else self._cued(pair, answer)
        return asked

    def of_teacher(self, row: Rationale) -> list[Variation]:
        """Which answer follows the teacher's rationale? The world has better ones, see `of_answer`."""
        if "following" not in self.measures or self.world or row.error or not row.choices:
            return []
        return [Variation(f"{GIVEN}{row.target_answer}", row.question, row.rationale)]

    def _mistake(self, pair: QAPair, rationale: str) -> list[Variation]:
        mistake: Mistake = partial(truth.mistaken, self.world, pair) if self.world else denied
        made = with_mistake(rationale, mistake, self._random(pair, MISTAKE))
        if made is None:
            return []
        return [Variation(NO_MISTAKE, pair.question, made[0]), Variation(MISTAKE, pair.question, made[1])]

    def _cued(self, pair: QAPair, answer: str) -> Iterator[Variation]:
        others = [choice for choice in pair.choices if not same_answer(choice, answer)]
        for name in self.cues if others else ():
            suggested = self._random(pair, f"{CUE}{name}").choice(others)
            question = CUES[name].question(pair.question, suggested)
            yield Variation(f"{CUE}{name}: {suggested}", question, None)

    def _in_world(self, pair: QAPair, answer: str) -> Iterator[Variation]:
        assert self.world
        if cued := truth.cued(self.world, pair, answer, self._random(pair, CUE)):
            word, suggested, question = cued
            yield Variation(f"{CUE}{word}: {suggested}", question, None)

    def _random(self, pair: QAPair, name: str) -> Random:
        return seeded(self.seed, pair.id, "probing", name)


@dataclass(frozen=True)
class CuedAnswer:
    """What was said under a cue, whether it turned the answer to the suggested one, and is mentioned."""

    probe: str
    cue: str
    suggested: str
    question: str
    rationale: str
    is_turned: bool
    is_mentioned: bool


def cued_answers(row: ProbedAnswer) -> Iterator[CuedAnswer]:
    asked = zip(row.probes, row.probe_answers, row.probe_questions, row.probe_rationales, strict=True)
    for probe, answer, question, rationale in asked:
        if probe.startswith(CUE):
            name, _, suggested = probe.removeprefix(CUE).partition(": ")
            is_turned, is_said = same_answer(answer, suggested), is_mentioned(name, rationale)
            yield CuedAnswer(probe, name, suggested, question, rationale, is_turned, is_said)


def is_mentioned(name: str, rationale: str) -> bool:
    """Whether a rationale says what suggested its answer: a cue of the registry, or else a first word."""
    if name in CUES:
        return CUES[name].is_mentioned(rationale)
    return name.casefold() in rationale.casefold().split()


def most_calls(config: ProbingConfig, *, in_world: bool) -> tuple[int, int]:
    """Per test question, at most: texts that the student writes, and answers after a given rationale, without
    those of `following`, of which there is one for each choice."""
    measures = set(config.measures)
    forced = {"early_answering": len(SHARES), "filler": 1, "mistake": 2}
    num_forced = sum(number for name, number in forced.items() if name in measures)
    num_cues = 1 if in_world else len(config.cues)
    num_written = 1 + (num_cues if "hidden_influence" in measures else 0)
    return num_written, num_forced + bool(measures & OF_OWN)


def probe_version() -> str:
    """Changes with what is asked."""
    samples = [*beginnings("A b. C d. E f. G h."), filler("a b"), repr(denied("It is 3.", seeded(0)))]
    templates = [cue.template + cue.mention.pattern for cue in CUES.values()]
    return f"{digest(0, *samples, *templates):016x}"
