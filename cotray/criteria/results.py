"""criteria.json, beside the report: what people said, what judges said, and how far they agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cotray.config import RunConfig
from cotray.criteria.agreement import Agreement, agreement, agreement_with
from cotray.criteria.annotation_key import Key
from cotray.criteria.mentions import TurnedRationale, mention_rates
from cotray.criteria.yes_rates import MEASURES, Ratings, verdicts_of, yes_rates
from cotray.prompts.criteria import Rating
from cotray.storage.run_folder import RunFolder

FILE = "criteria.json"


def write_people(config: RunConfig, key: Key, ratings: Ratings) -> dict[str, Any]:
    """Replace the people's part; returns the whole."""
    agreements = {measure: asdict(agreement(verdicts_of(ratings, measure))) for measure in MEASURES}
    return _write(config, "people", _part(config, key, ratings) | {"agreement": agreements})


def write_judge(config: RunConfig, key: Key, model: str, ratings: Mapping[str, Rating], **facts: Any):
    """Replace the judge's part; `facts` (counts, tokens, cost) stand beside its rates. Returns the whole."""
    return _write(config, "judge", _part(config, key, {model: ratings}) | {"model": model, **facts})


def write_mentions(
    config: RunConfig,
    rationales: Sequence[TurnedRationale],
    model: str,
    verdicts: Mapping[str, bool],
    **facts: Any,
) -> dict[str, Any]:
    """Replace what a judge says of mentioned cues; `facts` as of write_judge. Returns the whole."""
    rates = mention_rates(rationales, verdicts, num_resamples=config.scoring.num_resamples, seed=config.seed)
    return _write(config, "mentions", {"model": model, "num_items": len(rationales), "rates": rates, **facts})


def text_table(results: Mapping[str, Any]) -> str:
    """For the terminal: yes-rates with intervals, then agreement."""
    lines = []
    for part in ("people", "judge"):
        if part not in results:
            continue
        head = f"{part} ({', '.join(results[part]['ratings'])})"
        lines.append(f"{head:<44}" + "".join(f"{measure:<24}" for measure in MEASURES))
        for (writer, method), rates in grouped(results[part]["rates"]).items():
            shown = "".join(f"{_rate(rates[measure]):<24}" for measure in MEASURES)
            lines.append(f"{writer + ' ' + method:<44}{shown}")
    for rate in results.get("mentions", {}).get("rates", ()):
        low, high = rate["ci95"]
        lines.append(
            f"{rate['method']}: the rationale owns up to the cue that turned the answer: {rate['rate']:.3f} "
            f"[{low:.3f}, {high:.3f}] by the judge, {rate['by_words']:.3f} by its words, over "
            f"{rate['num_questions']} questions; both agree on {_number(rate['agreement']['raw'])}"
        )
    for name, of in (("people", results.get("people", {})), ("judge and people", results)):
        for measure, one in of.get("agreement", {}).items():
            shown = Agreement(**one)
            lines.append(
                f"agreement, {name}, {measure}: alpha {_number(shown.alpha)}, raw {_number(shown.raw)}"
            )
    return "\n".join(lines)


def grouped(rates: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """(writer, method) -> measure -> yes-rate."""
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for rate in rates:
        groups.setdefault((rate["writer"], rate["method"]), {})[rate["measure"]] = rate
    return groups


def _part(config: RunConfig, key: Key, ratings: Ratings) -> dict[str, Any]:
    rates = yes_rates(key.items, ratings, num_resamples=config.scoring.num_resamples, seed=config.seed)
    return {
        "key": key.digest,
        "num_items": len(key.items),
        "rates": [asdict(rate) for rate in rates],
        "ratings": {
            rater: {item: asdict(rating) for item, rating in of.items()} for rater, of in ratings.items()
        },
    }


def _write(config: RunConfig, name: str, part: dict[str, Any]) -> dict[str, Any]:
    folder = RunFolder(config.run_dir)
    results = json.loads(folder.read_bytes(FILE)) if folder.exists(FILE) else {}
    results[name] = part
    if "people" in results and "judge" in results:
        people, judge = (_ratings(results[part]["ratings"]) for part in ("people", "judge"))
        (said,) = judge.values()
        results["agreement"] = {
            measure: asdict(
                agreement_with(verdicts_of(people, measure), verdicts_of({"": said}, measure)[""])
            )
            for measure in MEASURES
        }
    folder.write_bytes(FILE, json.dumps(results, indent=1).encode())
    return results


def _ratings(tree: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Rating]]:
    return {rater: {item: Rating(**row) for item, row in of.items()} for rater, of in tree.items()}


def _rate(rate: dict[str, Any]) -> str:
    if rate["rate"] is None:
        return "-"
    low, high = rate["ci95"]
    return f"{rate['rate']:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
