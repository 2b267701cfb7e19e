"""A model behind any OpenAI-compatible endpoint: a prompt is asked until it is answered, refused, given up,
or more than the cost cap allows."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import openai

from cotray.config.references import hidden
from cotray.errors import ConfigError
from cotray.inference.cost_cap import CostCap
from cotray.seeds import digest

MAX_ATTEMPTS = 6
FIRST_WAIT_S = 1.0
"""Before the second attempt where the server does not say; each further wait is twice as long."""
MAX_WAIT_S = 60.0
TOKENS_OF_TEMPLATE = 64
"""At most added by a chat template around two messages."""

Message = dict[str, str]


class CapReached(Exception):
    """The next request could pass the cost cap."""


class Refused(Exception):
    """The endpoint does not answer this prompt, in its words; others it may."""


class Failed(Exception):
    """A request to repeat, with the reason; `retry_after` is the server's header, "" without."""

    def __init__(self, reason: str, *, is_billed: bool, retry_after: str = "") -> None:
        super().__init__(one_line(reason))
        self.is_billed = is_billed
        self.retry_after = retry_after


@dataclass(frozen=True)
class Endpoint:
    base_url: str
    model: str
    api_key: str
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Prompt:
    """The messages of a chat, or a text that goes on (`content`).

    `max_tokens` bounds a reply and its cost; models that think before they reply need thousands. `more` are
    further fields of the request.
    """

    content: str | Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def key(self, model: str) -> str:
        """The same for the same question to the same model, wherever its server is."""
        return f"{digest(0, model, json.dumps(asdict(self), sort_keys=True)):016x}"

    @property
    def most_tokens(self) -> tuple[int, int]:
        """That can be read and written."""
        messages = [{"content": self.content}] if isinstance(self.content, str) else self.content
        # Tokenizers of language models make at most one token of a byte.
        num_bytes = sum(len(message["content"].encode()) for message in messages)
        return num_bytes + TOKENS_OF_TEMPLATE * ((len(messages) + 1) // 2), self.max_tokens


@dataclass(frozen=True)
class Said:
    """A reply. Tokens are as the server counts them, or the most that they can be where it does not say.

    With an `error` there is no text: the reply was lost, but may have been billed.
    """

    text: str = ""
    finish: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""


Keep = Callable[[Said], Awaitable[None]]
"""Called with all that is to be paid, before it counts as spent."""


class OpenAIEndpoint:
    """Its model, asked without the parameters that it has refused, as models that think do."""

    def __init__(self, endpoint: Endpoint, purse: CostCap) -> None:
        self.endpoint, self.purse = endpoint, purse
        self.is_stopped = False
        """Nothing is asked a second time any more."""
        self._refused: set[str] = set()
        self._num_under_way = 0
        self._settled = asyncio.Event()
        # The client's own repetitions are off: each could be billed, so each has to fit under the cap.
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url, api_key=endpoint.api_key, timeout=endpoint.timeout_s, max_retries=0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, prompt: Prompt, keep: Keep) -> Said:
        """Raises CapReached, Refused for this prompt alone, Failed after MAX_ATTEMPTS, and ConfigError where
        the endpoint refuses more than this prompt, such as the key or the model."""
        most = prompt.most_tokens
        reserved = self.purse.cost(*most)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            while not self.purse.reserve(reserved):
                if not self._num_under_way:
                    raise CapReached
                # What is under way may cost less than was set aside for it.
                await self._settled.wait()
            self._num_under_way += 1
            tokens = (0, 0)
            try:
                said = await self._once(prompt)
                tokens = said.tokens_in, said.tokens_out
                await keep(said)
                return said
            except Failed as failed:
                if failed.is_billed:
                    tokens = most
                    await keep(Said(tokens_in=most[0], tokens_out=most[1], error=str(failed)))
                if attempt == MAX_ATTEMPTS or self.is_stopped:
                    raise
                wait_s = _wait_s(attempt, failed.retry_after)
            finally:
                self.purse.settle(reserved, self.purse.cost(*tokens))
                self._num_under_way -= 1
                self._settled.set()
                self._settled = asyncio.Event()
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, prompt: Prompt) -> Said:
        url = self.endpoint.base_url
        try:
            return _read(await self._create(prompt), prompt)
        except openai.APIConnectionError as error:
            # Once connected, a reply that was lost may have been written, and billed.
            is_billed = type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
            raise Failed(f"{error.message} {error.__cause__ or ''}", is_billed=is_billed) from None
        except openai.APIStatusError as error:
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                retry_after = error.response.headers.get("retry-after", "")
                raise Failed(error.message, is_billed=False, retry_after=retry_after) from None
            if error.status_code in (400, 413, 422):
                raise Refused(one_line(error.message)) from None
            raise ConfigError(f"{hidden(url)}: {one_line(error.message)}") from None
        except (openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
            # The client hands on whatever came with status 200: another body has none of these fields.
            raise Failed(f"not a completion ({error}); is the URL right?", is_billed=True) from None

    async def _create(self, prompt: Prompt) -> Any:
        while True:
            # Made anew each time, because requests that are under way at the same time refuse some.
            sent = self._parameters(prompt)
            more = dict(prompt.more) or None
            try:
                if isinstance(prompt.content, str):
                    return await self._client.completions.create(
                        model=self.endpoint.model, prompt=prompt.content, extra_body=more, **sent
                    )
                messages: Any = list(prompt.content)
                return await self._client.chat.completions.create(
                    model=self.endpoint.model, messages=messages, extra_body=more, **sent
                )
            except openai.BadRequestError as error:
                names = [name for name in sent if is_refused(name, str(error.body))]
                if not names:
                    raise
                self._refused.add(names[0])

    def _parameters(self, prompt: Prompt) -> dict[str, Any]:
        parameters: dict[str, Any] = {"max_tokens": prompt.max_tokens, "temperature": prompt.temperature}
        parameters |= {} if prompt.seed is None else {"seed": prompt.seed}
        parameters |= {"stop": list(prompt.stop)} if prompt.stop else {}
        sent = {name: value for name, value in parameters.items() if name not in self._refused}
        if "max_tokens" in self._refused:
            sent["max_completion_tokens"] = prompt.max_tokens
        return sent


def is_refused(name: str, said: str) -> bool:
    """Whether an error says that the model takes no such parameter; not that its value is too large here.

    A parameter is named in quotes or as `name=`; a bare word may come from the prompt that was refused.
    """
    is_named = re.search(rf"""['"`]{name}['"`]|\b{name}=""", said)
    is_about_length = "too large" in said or "context length" in said
    return bool(is_named) and not is_about_length and name != "max_completion_tokens"


def _read(reply: Any, prompt: Prompt) -> Said:
    """Raises AttributeError, IndexError, TypeError or ValueError where it is no completion."""
    if not reply.choices and (problem := getattr(reply, "error", None)):  # as some gateways say it
        raise ValueError(one_line(str(problem)))
    choice, usage = reply.choices[0], reply.usage
    text = choice.text if isinstance(prompt.content, str) else choice.message.content
    # Half a character of UTF-16 can be written in JSON, and nowhere else.
    text = (text or "").encode("utf-8", "replace").decode()
    counted = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
    read, written = (
        most if own is None else own for own, most in zip(counted, prompt.most_tokens, strict=True)
    )
    finish = getattr(choice, "finish_reason", None) or ""
    return Said(text, finish, tokens_in=read, tokens_out=written)


def one_line(text: str) -> str:
    return " ".join(hidden(text).split())[:300]


def _wait_s(attempt: int, retry_after: str) -> float:
    """What the server asks for, else 1, 2, 4, ... seconds with jitter; at most a minute."""
    try:
        return min(MAX_WAIT_S, max(0.0, float(retry_after)))
    except ValueError:
        return min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25))
