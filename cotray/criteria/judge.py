"""A language model behind any OpenAI-compatible endpoint answers the same three questions as people."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from cotray.criteria.cost_cap import CostCap
from cotray.criteria.judgements import Judgement, Judgements
from cotray.criteria.rated_items import Item
from cotray.errors import ConfigError, StageError
from cotray.prompts.criteria import judge_messages

MAX_ATTEMPTS = 6
TOKENS_OF_TEMPLATE = 64
"""At most added by a chat template around two messages."""


class _CapReached(Exception):
    """The next request could pass the cost cap."""


class _Failed(Exception):
    """A request to repeat, with the reason; `retry_after` is the server's header, "" without."""

    def __init__(self, reason: str, *, is_billed: bool, retry_after: str = "") -> None:
        super().__init__(" ".join(reason.split())[:300])
        self.is_billed = is_billed
        self.retry_after = retry_after


@dataclass(frozen=True)
class Endpoint:
    """`max_tokens` bounds a reply and its cost; models that think before they reply need thousands."""

    base_url: str
    model: str
    api_key: str
    concurrency: int = 8
    timeout_s: float = 60.0
    max_tokens: int = 64


class _Chat:
    """The endpoint's model, asked without the parameters that it has refused, as models that think do."""

    def __init__(self, client: openai.AsyncOpenAI, endpoint: Endpoint) -> None:
        self._client, self._endpoint = client, endpoint
        self._parameters: dict[str, Any] = {"temperature": 0, "max_tokens": endpoint.max_tokens}

    async def complete(self, messages: list[dict[str, str]]) -> ChatCompletion:
        while True:
            # A copy, because requests that are under way at the same time change it.
            sent = dict(self._parameters)
            try:
                return await self._client.chat.completions.create(
                    model=self._endpoint.model,
                    messages=messages,  # type: ignore[arg-type]
                    **sent,
                )
            except openai.BadRequestError as error:
                names = [n for n in ("max_tokens", "temperature") if n in sent and n in str(error.body)]
                if not names:
                    raise
                self._leave_out(names[0])

    def _leave_out(self, name: str) -> None:
        self._parameters.pop(name, None)
        if name == "max_tokens":
            self._parameters["max_completion_tokens"] = self._endpoint.max_tokens


async def judge(items: Sequence[Item], endpoint: Endpoint, judgements: Judgements, purse: CostCap) -> None:
    """Judge what is open in `judgements`; every answer is there as soon as it has come.

    StageError where the cost cap or failing requests leave items open: called again, it goes on from there.
    ConfigError where the endpoint refuses what it is asked, such as the key or the model.
    """
    open_items = judgements.open_items(items, max_tokens=endpoint.max_tokens)
    waiting = iter(open_items)
    failures: list[str] = []
    is_capped = False
    # The client's own repetitions are off: each could be billed, so each has to fit under the cap.
    async with openai.AsyncOpenAI(
        base_url=endpoint.base_url, api_key=endpoint.api_key, timeout=endpoint.timeout_s, max_retries=0
    ) as client:
        chat = _Chat(client, endpoint)

        async def work() -> None:
            nonlocal is_capped
            for item in waiting:
                try:
                    await _judge_one(chat, item, endpoint, judgements, purse)
                except _CapReached:
                    is_capped = True
                    return
                except _Failed as failed:
                    failures.append(str(failed))

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(endpoint.concurrency, len(open_items))):
                    tasks.create_task(work())
        except* ConfigError as refused:
            raise refused.exceptions[0] from None
    num_done = len(items) - len(judgements.open_items(items, max_tokens=endpoint.max_tokens))
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


async def _judge_one(
    chat: _Chat, item: Item, endpoint: Endpoint, judgements: Judgements, purse: CostCap
) -> None:
    messages = judge_messages(item.question, item.choices, item.answer, item.rationale)
    # Tokenizers of language models make at most one token of a byte.
    num_bytes = sum(len(message["content"].encode()) for message in messages)
    most = (num_bytes + TOKENS_OF_TEMPLATE, endpoint.max_tokens)
    reserved = purse.cost(*most)
    asked = Judgement(item.id, judgements.model, judgements.prompt, max_tokens=endpoint.max_tokens)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        if not purse.reserve(reserved):
            raise _CapReached
        tokens = (0, 0)
        try:
            text, finish, counted = await _ask(chat, endpoint, messages)
            tokens = counted or most
            said = replace(asked, text=text, finish=finish, tokens_in=tokens[0], tokens_out=tokens[1])
            judgements.add(said)
            return
        except _Failed as failed:
            if failed.is_billed:
                tokens = most
                judgements.add(replace(asked, tokens_in=most[0], tokens_out=most[1], error=str(failed)))
            if attempt == MAX_ATTEMPTS:
                raise
            wait_s = _wait_s(attempt, failed.retry_after)
        finally:
            purse.settle(reserved, purse.cost(*tokens))
        await asyncio.sleep(wait_s)


async def _ask(
    chat: _Chat, endpoint: Endpoint, messages: list[dict[str, str]]
) -> tuple[str, str, tuple[int, int] | None]:
    """The reply's text, why it ended, and the tokens read and written; "" and None where nothing is said."""
    try:
        reply = await chat.complete(messages)
        choice, usage = reply.choices[0], reply.usage
        counted = (usage.prompt_tokens, usage.completion_tokens) if usage else None
        return choice.message.content or "", getattr(choice, "finish_reason", None) or "", counted
    except openai.APIConnectionError as error:
        # Once connected, a reply that was lost may have been written, and billed.
        is_billed = type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
        raise _Failed(f"{error.message} {error.__cause__ or ''}", is_billed=is_billed) from None
    except openai.APIStatusError as error:
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            retry_after = error.response.headers.get("retry-after", "")
            raise _Failed(error.message, is_billed=False, retry_after=retry_after) from None
        raise ConfigError(f"{endpoint.base_url}: {' '.join(error.message.split())[:300]}") from None
    except (openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
        # The client hands on whatever came with status 200: another body has none of these fields.
        raise _Failed(f"not a chat completion ({error}); is the URL right?", is_billed=True) from None


def _wait_s(attempt: int, retry_after: str) -> float:
    """What the server asks for, else 1, 2, 4, ... seconds with jitter; at most a minute."""
    if retry_after.isdecimal():
        return min(60.0, float(retry_after))
    return min(60.0, 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25))
