"""A language model behind any OpenAI-compatible endpoint answers questions about rationales."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cotray.criteria.judgements import Asks, Judgement, Judgements
from cotray.errors import ConfigError, StageError
from cotray.inference.cost_cap import CostCap
from cotray.inference.openai_endpoint import (
    MAX_ATTEMPTS,
    CapReached,
    Endpoint,
    Failed,
    OpenAIEndpoint,
    Prompt,
    Refused,
    Said,
)


async def judge(
    items: Sequence[Asks],
    endpoint: Endpoint,
    judgements: Judgements[Any],
    purse: CostCap,
    *,
    concurrency: int = 8,
    max_tokens: int = 64,
) -> None:
    """Judge what is open in `judgements`; every answer is there as soon as it has come.

    StageError where the cost cap or failing requests leave items open: called again, it goes on from there.
    ConfigError where the endpoint refuses what it is asked, such as the key or the model.
    """
    open_items = judgements.open_items(items, max_tokens=max_tokens)
    waiting = iter(open_items)
    failures: list[str] = []
    is_capped = False
    async with OpenAIEndpoint(endpoint, purse) as model:

        async def work() -> None:
            nonlocal is_capped
            for item in waiting:
                try:
                    await _judge_one(model, item, judgements, max_tokens)
                except CapReached:
                    is_capped = True
                    return
                except Failed as failed:
                    failures.append(str(failed))
                except Refused as refused:
                    raise ConfigError(f"{endpoint.base_url}: {refused}") from None

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(concurrency, len(open_items))):
                    tasks.create_task(work())
        except* ConfigError as refused:
            raise refused.exceptions[0] from None
    num_done = len(items) - len(judgements.open_items(items, max_tokens=max_tokens))
    if is_capped:
        raise StageError(
            f"stopped before --max-cost {purse.limit:g} could be passed: {num_done} of {len(items)} items "
            f"are judged for {purse.spent:.4g}; the same command with a higher one goes on"
        )
    if failures:
        raise StageError(
            f"{endpoint.base_url}: {len(failures)} of {len(items)} items failed {MAX_ATTEMPTS} times, the "
            f"last with: {failures[-1]}; the same command goes on with them"
        )


async def _judge_one(model: OpenAIEndpoint, item: Asks, judgements: Judgements[Any], max_tokens: int) -> None:
    async def keep(said: Said) -> None:
        judgements.add(
            Judgement(item.id, judgements.model, judgements.prompt, max_tokens=max_tokens, **asdict(said))
        )

    await model.ask(Prompt(item.messages, max_tokens), keep)
