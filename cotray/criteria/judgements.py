"""The judge's raw answers as JSON lines: one per request that was answered or may have been billed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cotray.errors import DataError

Verdict = TypeVar("Verdict")


class Asks(Protocol):
    """One question to a judge."""

    @property
    def id(self) -> str: ...

    @property
    def messages(self) -> list[dict[str, str]]: ...


Asked = TypeVar("Asked", bound=Asks)


@dataclass(frozen=True)
class Judgement:
    """`prompt` is the prompt's version. With an `error` there is no text, and the item is asked again.

    Tokens are as the server counts them, or the most that they can be where it does not say. `max_tokens` is
    the cap on the reply, 0 where an older file does not say; `finish` the server's reason why it ended.
    """

    item: str
    model: str
    prompt: str
    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""
    max_tokens: int = 0
    finish: str = ""


class Judgements(Generic[Verdict]):
    """A file that grows by a line per judgement; a last line cut off by a crash is dropped."""

    def __init__(
        self, path: Path, *, model: str, prompt: str, parse: Callable[[str], Verdict | None]
    ) -> None:
        """`parse` reads a reply. DataError where the file has judgements of another model or prompt."""
        self.path, self.model, self.prompt, self.parse = path, model, prompt, parse
        self.all = list(self._read())
        for one in self.all:
            if (one.model, one.prompt) != (model, prompt):
                other = f"model {one.model}" if one.model != model else "another version of the prompt"
                raise DataError(f"{path}: has judgements of {other}; choose another --out folder")

    def verdict(self, one: Judgement) -> Verdict | None:
        """None where the reply cannot be read; never a yes or a no then."""
        return self.parse(one.text)

    def is_cut(self, one: Judgement) -> bool:
        """Whether it cannot be read because its cap cut it off."""
        return self.verdict(one) is None and one.finish == "length"

    @property
    def answered(self) -> dict[str, Judgement]:
        """By item id; the last where an item was asked again."""
        return {one.item: one for one in self.all if not one.error}

    def open_items(self, items: Sequence[Asked], *, max_tokens: int) -> list[Asked]:
        """To be asked: without an answer, or with one under a smaller cap that cannot be read."""
        answered = self.answered
        return [
            item
            for item in items
            if (said := answered.get(item.id)) is None
            or (self.verdict(said) is None and said.max_tokens < max_tokens)
        ]

    def add(self, judgement: Judgement) -> None:
        """On the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(judgement), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.all.append(judgement)

    def _read(self) -> Iterator[Judgement]:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.decode().split("\n")[:-1], start=1):
            try:
                yield Judgement(**json.loads(line))
            except (ValueError, TypeError):
                raise DataError(
                    f"{self.path} line {number}: not a judgement; delete the line, its item is asked again"
                ) from None
