"""Every reply of an endpoint that was paid for: none is paid twice, and the cost cap knows of all.

`replies/` in a run's folder has JSON lines, in files that one process each has written. They outlive the
stages' own files: what is deleted there to be made again was paid for all the same.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from cotray.errors import DataError
from cotray.storage.filesystems import with_retries
from cotray.storage.folder import Folder

FOLDER = "replies"
MAX_PER_FILE = 256
"""A file is written anew with every reply that comes, until it has so many."""


@dataclass(frozen=True)
class PaidReply:
    """`request` tells requests apart, `row` is the id of the question, `stage` what it was asked for.

    With an `error` there is no text, and the request is made again.
    """

    request: str
    stage: str
    row: str
    text: str = ""
    finish: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""


class PaidReplies:
    """Those of one run: read when it is made, and added to in `run_dir`, from one event loop."""

    def __init__(self, run_dir: str, *, account: str) -> None:
        """`account`: a folder; what lies in it, or in a folder in it, was paid for the same run."""
        self._folder = Folder(run_dir)
        self.all = list(_below(account))
        if Folder(account).root != self._folder.root and not _is_below(run_dir, account):
            self.all += replies_of(self._folder)
        self._answers = {reply.request: reply for reply in self.all if not reply.error}
        self._waiting: list[PaidReply] = []
        self._in_file: list[PaidReply] = []
        self._file = ""
        self._is_writing = asyncio.Lock()

    def answer_to(self, request: str) -> PaidReply | None:
        return self._answers.get(request)

    async def add(self, reply: PaidReply) -> None:
        """On the storage when this returns. Raises DataError where that is out of reach for minutes."""
        self.all.append(reply)
        self._waiting.append(reply)
        async with self._is_writing:
            # Whoever comes first writes for all who wait.
            if reply in self._waiting:
                arrived, self._waiting = self._waiting, []
                await asyncio.to_thread(with_retries, partial(self._write, arrived))
        if not reply.error:
            self._answers[reply.request] = reply

    def _write(self, arrived: list[PaidReply]) -> None:
        if not self._file or len(self._in_file) >= MAX_PER_FILE:
            self._file, self._in_file = f"{FOLDER}/{uuid.uuid4().hex}.jsonl", []
        all_of_it = [*self._in_file, *arrived]
        lines = (json.dumps(asdict(reply), ensure_ascii=False) for reply in all_of_it)
        self._folder.write_bytes(self._file, "".join(f"{line}\n" for line in lines).encode())
        self._in_file = all_of_it


def replies_of(folder: Folder) -> Iterator[PaidReply]:
    """Raises DataError, naming the file, where one cannot be read."""
    for leaf in folder.file_names(FOLDER, ".jsonl"):
        name = f"{FOLDER}/{leaf}"
        # A line ends with \n alone: texts may have other breaks, such as U+2028.
        for number, line in enumerate(folder.read_bytes(name).decode().split("\n")[:-1], start=1):
            try:
                yield PaidReply(**json.loads(line))
            except (ValueError, TypeError):
                raise DataError(
                    f"{folder.uri(name)} line {number}: not a reply; delete the line, its request is made "
                    "again"
                ) from None


def usage(replies: Iterator[PaidReply], stage: str) -> dict[str, Any]:
    """Requests and tokens that one stage was billed for, lost replies included."""
    own = [reply for reply in replies if reply.stage == stage]
    return {
        "requests": len(own),
        "tokens_in": sum(reply.tokens_in for reply in own),
        "tokens_out": sum(reply.tokens_out for reply in own),
    }


def _below(account: str) -> Iterator[PaidReply]:
    root = Folder(account)
    yield from replies_of(root)
    for name in root.subfolders():
        yield from replies_of(Folder(root.uri(name)))


def _is_below(run_dir: str, account: str) -> bool:
    return Folder(run_dir).root.rpartition("/")[0] == Folder(account).root
