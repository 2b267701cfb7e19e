"""cotray judge -c CONFIG --base-url URL --model NAME --out FOLDER [--key FILE | --mentions] [KEY=VALUE ...]

A language model answers the three human criteria, behind cotray's, vLLM's or any other OpenAI-compatible
endpoint: for the items of an export with --key, else for items drawn alike. With --mentions it says instead
whether rationales of probed answers that a cue turned own up to the cue. The endpoint's own key comes from
OPENAI_API_KEY. FOLDER keeps the raw answers; the same command goes on from them, and with a larger
--max-tokens asks again what could not be read. Exit codes: 0 done, 1 stopped by the cost cap or failing
requests, 2 wrong usage, configuration or files.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotray.commands.command import add_config, add_overrides, configured, reported
from cotray.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cotray.config import RunConfig
    from cotray.criteria.annotation_key import Key
    from cotray.criteria.judgements import Asks
    from cotray.inference.cost_cap import CostCap


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray judge") -> int:
    arguments = parser(prog).parse_intermixed_args(argv)
    return reported(lambda: _judge(arguments))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Let a language model rate rationales as people do."
    )
    add = parser.add_argument
    add_config(parser)
    add("--base-url", required=True, metavar="URL", help="of the endpoint, such as http://127.0.0.1:8000/v1")
    add("--model", required=True, metavar="NAME", help="as the endpoint calls it")
    add("--out", required=True, metavar="FOLDER", help="a local folder for the raw answers")
    add("--key", metavar="KEY.json", help="judge the items of this export, as people do")
    add("--mentions", action="store_true", help="judge whether rationales mention the cue that turned them")
    add(
        "--rationales", type=int, default=25, metavar="N", help="without --key; as of the export (default 25)"
    )
    add("--concurrency", type=int, default=8, metavar="N", help="requests at once (default 8)")
    add("--timeout-s", type=float, default=60, metavar="T", help="of one request (default 60)")
    add(
        "--max-tokens",
        type=int,
        default=64,
        metavar="N",
        help="of one reply (default 64; more for models that think)",
    )
    add("--price-in", type=float, metavar="P", help="of a million tokens read")
    add("--price-out", type=float, metavar="P", help="of a million tokens written")
    add("--max-cost", type=float, metavar="M", help="stop before it could be passed, earlier runs included")
    add_overrides(parser, "such as run_dir=runs/demo")
    return parser


def _judge(arguments: argparse.Namespace) -> str:
    from cotray.criteria.judge import judge
    from cotray.criteria.judgements import Judgements
    from cotray.criteria.results import text_table
    from cotray.inference.openai_endpoint import Endpoint

    purse = _purse(arguments)
    config = configured(arguments.config, arguments.overrides)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    asked = _mentions(arguments, config) if arguments.mentions else _criteria(arguments, config, folder)
    judgements = Judgements(
        folder / "judgements.jsonl", model=arguments.model, prompt=asked.prompt, parse=asked.parse
    )
    purse.spent = sum(purse.cost(one.tokens_in, one.tokens_out) for one in judgements.all)
    endpoint = Endpoint(
        arguments.base_url,
        arguments.model,
        os.environ.get("OPENAI_API_KEY") or "none",
        timeout_s=arguments.timeout_s,
    )
    limits = {"concurrency": arguments.concurrency, "max_tokens": arguments.max_tokens}
    try:
        asyncio.run(judge(asked.items, endpoint, judgements, purse, **limits))
    finally:
        ids = {item.id for item in asked.items}
        answered = {id_: one for id_, one in judgements.answered.items() if id_ in ids}
        read = {id_: judgements.verdict(one) for id_, one in answered.items()}
        verdicts = {id_: verdict for id_, verdict in read.items() if verdict is not None}
        facts = {
            "num_judged": len(answered),
            "num_unparsable": len(answered) - len(verdicts),
            "num_cut": sum(map(judgements.is_cut, answered.values())),
            "tokens_in": sum(one.tokens_in for one in judgements.all),
            "tokens_out": sum(one.tokens_out for one in judgements.all),
            "cost": purse.spent if arguments.price_in is not None else None,
        }
        # Also of a part: items are asked in the order of their opaque ids, which is as good as drawn.
        results = asked.write(verdicts, **facts) if answered else {}
    said = f"{facts['num_judged']} judged, {facts['num_unparsable']} unparsable"
    cost = "" if facts["cost"] is None else f", cost {facts['cost']:.4g}"
    way_out = "cut at the cap on tokens; the same command with a larger --max-tokens asks them again"
    cut = f"\n{facts['num_cut']} of the unparsable were {way_out}" if facts["num_cut"] else ""
    return f"{text_table(results)}\n{said}{cost}; raw answers in {judgements.path}{cut}"


@dataclass(frozen=True)
class _Asked:
    """`write` puts what was said into criteria.json, and returns the whole."""

    items: Sequence[Asks]
    prompt: str
    parse: Callable[[str], Any]
    write: Callable[..., dict[str, Any]]


def _criteria(arguments: argparse.Namespace, config: RunConfig, folder: Path) -> _Asked:
    from cotray.criteria.results import write_judge
    from cotray.prompts.criteria import JUDGE_PROMPT_VERSION, parse_judge

    key = _key(arguments, config, folder)
    write = partial(write_judge, config, key, arguments.model)
    return _Asked(key.items, JUDGE_PROMPT_VERSION, parse_judge, write)


def _mentions(arguments: argparse.Namespace, config: RunConfig) -> _Asked:
    from cotray.criteria.mentions import turned_rationales
    from cotray.criteria.results import write_mentions
    from cotray.prompts.mentions import MENTION_PROMPT_VERSION, parse_mention

    if arguments.key:
        raise ConfigError("--mentions asks about probed answers, which are in no export; leave --key out")
    items = turned_rationales(config)
    write = partial(write_mentions, config, items, arguments.model)
    return _Asked(items, MENTION_PROMPT_VERSION, parse_mention, write)


def _key(arguments: argparse.Namespace, config: RunConfig, folder: Path) -> Key:
    """The export's, or one of our own that stays with the answers."""
    from cotray.criteria.annotation_key import Key
    from cotray.criteria.rated_items import draw_items

    if arguments.key:
        return Key.read(Path(arguments.key))
    drawn, own = Key(tuple(draw_items(config, num_rationales=arguments.rationales))), folder / "key.json"
    if not own.exists():
        drawn.write(own)
    key = Key.read(own)
    if not key.same_rationales(drawn):
        raise DataError(f"{own}: has other rationales than are drawn now; choose another --out folder")
    return key


def _purse(arguments: argparse.Namespace) -> CostCap:
    from cotray.inference.cost_cap import CostCap

    for name in ("rationales", "concurrency", "timeout_s", "max_tokens", "max_cost", "price_in", "price_out"):
        value = getattr(arguments, name)
        is_price = name.startswith("price")
        if value is not None and (value < 0 or (value == 0 and not is_price)):
            least = "0 or more" if is_price else "above 0"
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: must be {least}")
    prices = (arguments.price_in, arguments.price_out)
    if None in prices and (arguments.max_cost is not None or prices != (None, None)):
        raise ConfigError("--max-cost needs --price-in and --price-out, and they need each other")
    return CostCap(arguments.price_in or 0.0, arguments.price_out or 0.0, arguments.max_cost)
