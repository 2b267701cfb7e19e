"""What a report says in sentences: is a method's LAS above the first one's, or can that not be told?

Differences are paired: a resample draws test questions, and both methods are counted on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cotray.records import Simulation
from cotray.report.comparison import STUDENT_FIGURES, Difference, columns_of, difference, student_columns
from cotray.report.method_report import MethodDifference, MethodReport
from cotray.report.table import MIN_QUESTIONS
from cotray.scoring.constant_answers import constant
from cotray.scoring.writing import untrained

FEWEST_STEPS = 20
"""Of training, below which a report says so."""
MOST_UNNAMED = 0.5
"""Share of texts that name their answer, below which a report says so."""
FIGURES = ("las", "accuracy")
"""What methods are compared by: keys of STUDENT_FIGURES."""


def differences(
    methods: Sequence[str], simulations: Sequence[Mapping[str, Simulation]], *, seed: int
) -> list[MethodDifference]:
    """Every method against the first; `simulations` are by question id, one mapping per method.

    Both figures of a pair have the same seed, so that their resamples draw the same questions.
    """
    found = []
    for method, rows in zip(methods[1:], simulations[1:], strict=True):
        ids = sorted(set(rows) & set(simulations[0]))
        if not ids:
            found.append(MethodDifference(method, methods[0], *[Difference(None, None, 0)] * 2))
            continue
        more, less = (
            columns_of([{id_: student_columns(side[id_]) for id_ in ids}], ids)
            for side in (rows, simulations[0])
        )
        pair = [difference(more, less, STUDENT_FIGURES[figure], seed=seed) for figure in FIGURES]
        found.append(MethodDifference(method, methods[0], *pair))
    return found


def verdicts(methods: Sequence[MethodReport], pairs: Sequence[MethodDifference]) -> list[str]:
    """First which students cannot write and which simulators say one thing, then a sentence per pair; of a
    single method, one that compares its LAS with 0."""
    warned = [
        f"{method.method}: {said}."
        for method in methods
        for said in (
            _hardly_trained(method),
            untrained(method.writing),
            constant(method.commonest_answers),
            _unnamed(method),
        )
        if said
    ]
    if len(methods) == 1:
        return [*warned, _alone(methods[0])]
    by_name = {method.method: method for method in methods}
    return warned + [_verdict(by_name[pair.method], by_name[pair.against], pair.las) for pair in pairs]


def _hardly_trained(method: MethodReport) -> str | None:
    num_steps = method.counts.get("training steps")
    # Of ConSeq these are its second phase's; of a model that is prompted there are none.
    if method.conseq or not isinstance(num_steps, int) or not 0 < num_steps < FEWEST_STEPS:
        return None
    return (
        f"the student was trained in {num_steps} steps, which hardly change it: raise student.training."
        "epochs or learning_rate, or use more questions"
    )


def _unnamed(method: MethodReport) -> str | None:
    """Of a student whose answers are mostly not its own words."""
    share, num_questions = method.wrote_answer["value"], method.wrote_answer["n"]
    if share is None or share >= MOST_UNNAMED:
        return None
    return (
        f"the student named its answer in {round(share * num_questions)} of {num_questions} texts; elsewhere "
        "it was asked for one after its rationale, and that is the likeliest choice, whatever it had written"
    )


def _verdict(method: MethodReport, against: MethodReport, found: Difference) -> str:
    name, other = method.method, against.method
    if found.num_questions < MIN_QUESTIONS:
        return f"{name}: {_too_few(found.num_questions)}."
    if found.value is None or found.ci95 is None:
        return (
            f"{name}: its LAS cannot be compared with {other}'s: {_why_undefined(method, against, found)}"
            f"{_instead(method)}{_instead(against)}{_truth(method, against)}."
        )
    if found.ci95 == (0, 0):
        said = f"no difference from {other}'s LAS was seen on {found.num_questions} test questions"
    elif found.sign == 0:
        said = (
            f"whether its LAS differs from {other}'s cannot be told: the interval {_span(found.ci95)} of the "
            "difference includes 0"
        )
    else:
        where, how_much = ("higher", "more") if found.sign > 0 else ("lower", "less")
        said = (
            f"LAS is {_short(abs(found.value))} {where} than {other}'s (95 % interval of the difference "
            f"{_span(found.ci95)}), so its rationales tell {how_much} about its answers"
        )
    return f"{name}: {said}{_doubts(method, against)}{_truth(method, against)}."


def _alone(method: MethodReport) -> str:
    name, value, bounds = method.method, method.las["las"], method.las["ci95"]
    if method.num_questions < MIN_QUESTIONS:
        return f"{name}: {_too_few(method.num_questions)}."
    if value is None or bounds is None:
        return f"{name}: LAS is undefined: {method.las['reason']}{_instead(method)}."
    if bounds[0] <= 0 <= bounds[1]:
        return (
            f"{name}: whether its rationales tell anything about its answers cannot be told: LAS is "
            f"{_short(value)}, and its 95 % interval {_span(bounds)} includes 0{_doubts(method)}."
        )
    effect = "tell something about its answers" if value > 0 else "mislead about its answers"
    return (
        f"{name}: LAS is {_short(value)} (95 % interval {_span(bounds)}), so its rationales {effect}"
        f"{_doubts(method)}."
    )


def _doubts(*methods: MethodReport) -> str:
    """Why a LAS that is defined is little to go by."""
    small = [
        f"of {method.method}, {method.las['reason']}"
        for method in methods
        if method.las["las"] is not None and method.las["reason"]
    ]
    return f"; but half of LAS rests on few questions: {'; '.join(small)}" if small else ""


def _too_few(num_questions: int) -> str:
    some = "no test question" if num_questions == 0 else f"{num_questions} test questions"
    some = "1 test question" if num_questions == 1 else some
    return f"nothing can be said: {some}, and below {MIN_QUESTIONS} a figure is not measured"


def _why_undefined(method: MethodReport, against: MethodReport, found: Difference) -> str:
    reasons = [
        f"of {side.method}, {side.las['reason']}" for side in (method, against) if side.las["las"] is None
    ]
    return "; ".join(reasons) or f"it is undefined on the {found.num_questions} questions that both answered"


def _instead(method: MethodReport) -> str:
    """What can be said where LAS cannot, as of the most faithful students, all of whose rationales leak."""
    if method.las["las"] is not None or method.las["sim_gain"] is None:
        return ""
    gain = f"; {method.method}'s simulation gain, without the adjustment for leaking, is "
    return f"{gain}{_short(method.las['sim_gain'])} (95 % interval {_span(method.las['sim_gain_ci95'])})"


def _truth(method: MethodReport, against: MethodReport) -> str:
    """What the sentence about LAS is held against, where both methods have it."""
    own, other = method.faithfulness, against.faithfulness
    if own is None or other is None or min(method.num_probed, against.num_probed) < MIN_QUESTIONS:
        return ""
    return (
        f"; what is really so: its answers follow its rationales in {_short(own)} of the "
        f"questions, {against.method}'s in {_short(other)}"
    )


def _span(bounds: Sequence[float]) -> str:
    return f"{_short(bounds[0])} to {_short(bounds[1])}"


def _short(value: float) -> str:
    """Two decimals; what would round to 0 keeps its first digit, so that it does not look like 0."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:.1g}"
