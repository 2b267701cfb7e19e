"""Interventions that the world alone can make exactly: it knows what rationales mean and what misleads."""

from __future__ import annotations

from cotray.config.world import WorldConfig
from cotray.records import QAPair
from cotray.scoring.probes import GIVEN, OWN, Probe
from cotray.seeds import seeded
from cotray.world.questions import CUES, Question


def probes(config: WorldConfig, pair: QAPair, rationale: str) -> list[Probe]:
    """Of a question of this world and the rationale that the student wrote to it.

    The grounded rationale of every answer; that of another animal, an empty one; and the student's own under
    the question without its cue, with another cue, and as it is.
    """
    question = Question.of(pair.id, config)
    cue = pair.question.partition(",")[0]
    random_ = seeded(config.seed, pair.id, "probes")
    other_cue = random_.choice([known for known in CUES[: len(question.answers)] if known != cue])
    other_animal = random_.choice([a for a in question.world.animals if a != question.animal])
    stranger = Question(question.world, question.task, other_animal, question.attribute)
    given = [
        Probe(f"{GIVEN}{answer}", pair.question, question.grounded(answer)) for answer in question.answers
    ]
    return [
        *given,
        Probe(OWN, pair.question, rationale),
        Probe("another animal", pair.question, stranger.grounded(stranger.gold)),
        Probe("no rationale", pair.question, ""),
        Probe("no cue", question.text(None), rationale),
        Probe("another cue", question.text(other_cue), rationale),
    ]
