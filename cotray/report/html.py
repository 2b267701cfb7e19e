"""report.html: one self-contained page that opens offline. Everything from data is escaped by Jinja."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cotray.config.world import PREFIX
from cotray.records import Rationale
from cotray.report.plots import bars_svg, boxes_svg, early_svg, loss_svg
from cotray.report.table import MIN_QUESTIONS, PROBED, interval, measured, number, signed, unmeasured

if TYPE_CHECKING:
    from cotray.report.method_report import Example, MethodDifference, MethodReport, ProbedExample

SCORES = (
    "grounded", "novel", "delta", "shuffled", "num_pairs", "qags",
    "num_words", "copy_rate", "repetition", "states_answer",
)  # fmt: skip
QUALITY = (
    *((name.replace("_", " "), name, "mean", "ci95") for name in SCORES),
    ("own facts against others", "fact_auc", "value", "ci95"),
    ("simulation gain", "simulation", "sim_gain", "sim_gain_ci95"),
    ("LAS", "simulation", "las", "ci95"),
)
"""Rows of the table of the teacher's rationales: label, part of `quality`, its value and its interval."""


@dataclass(frozen=True)
class TokenView:
    """One token of a teacher's rationale as the page shows it."""

    text: str
    is_changed: bool
    hint: str
    grounded: float
    contrast: float | None
    """None in greedy decoding, which has no contrast."""
    greedy: str
    """What plain decoding would have taken, where it is another."""


def token_views(rationale: Rationale) -> list[TokenView]:
    """Tokens with both branches' log-probabilities; changed = plain decoding would have taken another."""
    is_contrastive = rationale.method != "greedy"
    views = []
    for text, greedy, grounded, contrast, greedy_grounded, greedy_contrast in zip(
        rationale.tokens,
        rationale.greedy_tokens,
        rationale.grounded_logprobs,
        rationale.contrast_logprobs,
        rationale.greedy_grounded_logprobs,
        rationale.greedy_contrast_logprobs,
        strict=True,
    ):
        hint = f"log p grounded {grounded:.2f}"
        if is_contrastive:
            hint += f", contrast {contrast:.2f}"
        if text != greedy:
            hint += f"; greedy: {greedy!r} {greedy_grounded:.2f}"
            if is_contrastive:
                hint += f", {greedy_contrast:.2f}"
        other = greedy if text != greedy else ""
        views.append(
            TokenView(text, text != greedy, hint, grounded, contrast if is_contrastive else None, other)
        )
    return views


def breakable(method: str) -> Markup:
    """A method's name, which may go on in a new line after a +."""
    return Markup("+<wbr>").join(method.split("+"))


def truths(methods: Sequence[MethodReport]) -> list[str]:
    """Names of what any method's ground truth has, without their intervals; `following` first."""
    names = {
        name: None
        for method in methods
        for name, value in (method.ground_truth or {}).items()
        if name != "n" and not name.endswith("_ci95") and isinstance(value, int | float)
    }
    return sorted(names, key=lambda name: name != "following")


def model_name(name: object) -> str:
    """As a person would write it: `world:teacher`, whose dials are told by report.json."""
    text = str(name)
    if not text.startswith(PREFIX):
        return text
    role, _, dials = text.partition("?")
    _, space, rest = dials.partition(" ")
    return role + space + rest


def environment() -> Environment:
    """Jinja with what every page uses."""
    made = Environment(
        loader=PackageLoader("cotray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "number": number,
        "interval": interval,
        "measured": measured,
        "model_name": model_name,
        "signed": signed,
        "unmeasured": unmeasured,
        "MIN_QUESTIONS": MIN_QUESTIONS,
        "truths": truths,
        "breakable": breakable,
        "token_views": token_views,
        "QUALITY": QUALITY,
        "PROBED": PROBED,
    }
    return made


def _curve(method: MethodReport) -> Sequence[tuple[float, float]]:
    """(share of the rationale, share of answers that are kept), where enough questions stand behind it."""
    part = (method.probing or {}).get("early_answering")
    return part["curve"] if part and part["n"] >= MIN_QUESTIONS else []


def render_html(
    summary: dict[str, Any],
    methods: Sequence[MethodReport],
    examples: Sequence[Example],
    *,
    pairs: Sequence[MethodDifference] = (),
    verdicts: Sequence[str] = (),
    criteria: dict[str, Any] | None = None,
    probed: Sequence[ProbedExample] = (),
) -> str:
    """`pairs` are methods compared with the first, `verdicts` sentences about them; `criteria` is what
    criteria.json says, where people or a judge rated rationales; `probed` are changed answers."""
    curves = [(m.method, curve) for m in methods if (curve := _curve(m))]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            methods=methods,
            examples=examples,
            pairs=pairs,
            verdicts=verdicts,
            criteria=criteria or {},
            probed=probed,
            curves=Markup(early_svg(curves)) if curves else "",
            # Markup: matplotlib has escaped the text in its own output.
            bars=Markup(bars_svg(methods)),
            scores=Markup(boxes_svg(methods)),
            losses=Markup(loss_svg([(m.method, m.history) for m in methods if m.history])),
        )
    )
