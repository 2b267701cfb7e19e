"""The verb `prepare`, without Ray: raw rows -> TeacherRequest shards, dead letters and a manifest.

Rows are streamed: what is held is one shard, a 64-bit digest per id, and at most 1,000 answers where there
are open questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any, Generic, TypeVar

from cotray.config import DataConfig, RunConfig
from cotray.config.data import MappingConfig
from cotray.data.columns import UnusableRow
from cotray.data.file_formats import Row, Unreadable, is_unicode
from cotray.data.perturbation import Rank, Source, answer_pool, requests_of
from cotray.data.questions import Understood, understand
from cotray.data.readers import (
    MAX_ROW_CHARS,
    input_fingerprint,
    input_identity,
    read_rows,
    row_text,
)
from cotray.errors import ConfigError, DataError
from cotray.records import QAPair, Task, TeacherRequest
from cotray.seeds import digest
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import DeadLetter, RunFolder

STAGE = "requests"
ROWS_PER_SHARD = 2048
ROWS_PER_REPORT = 1000

T = TypeVar("T")
OnRows = Callable[[int], object]


def prepare(
    config: RunConfig,
    folder: RunFolder,
    *,
    overwrite: bool = False,
    on_rows: OnRows = lambda num_new_rows: None,
    rank: Rank | None = None,
) -> Manifest:
    """Write requests/ unless it is there already; `on_rows` is told of every so many rows read.

    `rank` is the teacher, for perturbation `hardest` alone. Rows read = questions usable + dead letters.
    After a DataError there is no requests/, but the dead letters are there if all rows were read.
    """
    if config.perturbation == "hardest" and rank is None:
        raise ConfigError(f"method={config.method} ranks answers with a teacher, and none was given")
    with lease(folder.root, "prepare") as fence:
        return _prepare(config, folder, fence, overwrite=overwrite, on_rows=on_rows, rank=rank)


def _prepare(
    config: RunConfig, folder: RunFolder, fence: Fence, *, overwrite: bool, on_rows: OnRows, rank: Rank | None
) -> Manifest:
    before = input_identity(config.data)
    settings, source = settings_of(config), input_fingerprint(config.data)
    state = folder.begin(STAGE, settings=settings, input=source, overwrite=overwrite)
    if state == "done":
        return folder.require(STAGE, "prepare")
    if state == "resume":
        folder.restart(STAGE, settings=settings, input=source)
    try:
        outcome = _write_requests(config, folder, fingerprint(settings, source), on_rows, rank)
        _check(outcome, config.data)
        if input_identity(config.data) != before:
            raise DataError(f"{config.data.path}: changed while it was read; run the same command again")
    except DataError:
        folder.abandon(STAGE)
        raise
    fence.check()
    return folder.finish(
        Manifest(
            stage=STAGE,
            settings=settings,
            input=source,
            num_in=outcome.num_read,
            num_out=outcome.num_usable,
            num_dead=outcome.num_dead,
            metrics={"path": config.written()["data"]["path"], **dict(sorted((+outcome.counts).items()))},
        )
    )


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What of the configuration matters to this stage; the path counts by what is there."""
    # Where the questions are others, the world is no part of them, nor of what earlier versions recorded.
    unused = set() if config.data.is_world else {"world"}
    # Nor is what is said of the columns, where nothing is.
    nothing = MappingConfig()
    unused |= {name for name, said in nothing if getattr(config.data, name) == said}
    data = config.data.model_dump(mode="json", exclude={"path"} | unused)
    return {"seed": config.seed, "perturbation": config.perturbation, "data": data}


@dataclass
class Outcome:
    """Counts are of questions (split/, task/, layout/, made ids and merged choices), of requests (kind/) and
    of dead rows (reason/)."""

    num_usable: int = 0
    num_dead: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def num_read(self) -> int:
        return self.num_usable + self.num_dead

    def add(self, result: list[TeacherRequest] | DeadLetter) -> None:
        if isinstance(result, DeadLetter):
            self.num_dead += 1
            self.counts[f"reason/{result.reason}"] += 1
            return
        self.num_usable += 1
        self.counts.update([f"split/{result[0].split}", f"task/{result[0].task}"])
        self.counts.update(f"kind/{request.kind}" for request in result)


@dataclass
class ShardWriter(Generic[T]):
    """Hands on rows as part-00000 and so on, all but the last of the same length."""

    write: Callable[[str, Sequence[T]], object]
    rows: list[T] = field(default_factory=list)
    num_written: int = 0

    def add(self, rows: Sequence[T]) -> None:
        self.rows.extend(rows)
        while len(self.rows) >= ROWS_PER_SHARD:
            self._write(self.rows[:ROWS_PER_SHARD])
            self.rows = self.rows[ROWS_PER_SHARD:]

    def close(self) -> None:
        if self.rows:
            self._write(self.rows)

    def _write(self, rows: Sequence[T]) -> None:
        self.write(f"part-{self.num_written:05d}", rows)
        self.num_written += 1


def _write_requests(
    config: RunConfig, folder: RunFolder, version: str, on_rows: OnRows, rank: Rank | None
) -> Outcome:
    source = Source(config.seed, pool=cache(lambda task: _open_answers(config, task)), rank=rank)
    outcome = Outcome()

    def use(question: Understood) -> list[TeacherRequest]:
        requests = requests_of(question.pair, config.perturbation, source)
        outcome.counts.update([f"layout/{question.layout}"])
        outcome.counts.update({"made_ids": question.has_made_id, "merged": question.has_merged_choices})
        return requests

    shards = ShardWriter[TeacherRequest](
        lambda name, rows: folder.write_records(
            f"{STAGE}/{name}.parquet", rows, TeacherRequest, version=version
        )
    )
    letters = ShardWriter[DeadLetter](lambda name, rows: folder.write_dead_letters(STAGE, rows, shard=name))
    for result in each_row(config, use):
        outcome.add(result)
        if isinstance(result, DeadLetter):
            letters.add([result])
        else:
            shards.add(result)
        if outcome.num_read % ROWS_PER_REPORT == 0:
            on_rows(ROWS_PER_REPORT)
        if outcome.num_usable == config.data.limit > 0:
            break
    shards.close()
    letters.close()
    if rest := outcome.num_read % ROWS_PER_REPORT:
        on_rows(rest)
    return outcome


def _open_answers(config: RunConfig, task: Task) -> tuple[str, ...]:
    """A pass of its own over the rows in use, made only where one of them has no choices."""
    pairs = (row for row in each_row(config, lambda question: question.pair) if isinstance(row, QAPair))
    used = islice(pairs, config.data.limit or None)
    return answer_pool((pair.answer for pair in used if pair.task == task), config.seed)


def each_row(config: RunConfig, use: Callable[[Understood], T]) -> Iterator[T | DeadLetter]:
    """What `use` makes of each row's question, or why there is none (`use` may raise UnusableRow too)."""
    seen: set[int] = set()
    for origin, row in read_rows(config.data):
        try:
            question = understand(row, config.data, seed=config.seed)
            key = digest(0, question.pair.id)
            if key in seen:
                raise UnusableRow("duplicate question" if question.has_made_id else "duplicate id")
            result = use(question)
        except UnusableRow as error:
            yield DeadLetter(STAGE, _id_of(row, config.data) or origin, str(error), row_text(row))
        else:
            seen.add(key)
            yield result


def _id_of(row: Row, config: DataConfig) -> str:
    """The dead row's own id where it has one that can be written."""
    if isinstance(row, Unreadable):
        return ""
    values = (row.get(name) for name in ("id", "qid", "ex_id"))
    own_id = next((value for value in values if isinstance(value, str | int)), "")
    text = " ".join(str(own_id).split())
    return text[:MAX_ROW_CHARS] if is_unicode(text) else ""


def _way_out(reason: str, data: DataConfig) -> str:
    """What to do where no row is usable, for the most frequent reason."""
    first = next((row for _, row in read_rows(data) if isinstance(row, dict)), None)
    if not first:
        return "repair them (see dead_letter/)"
    there = ", ".join(map(str, first))[:MAX_ROW_CHARS]
    if reason.startswith("missing column '"):
        likely = get_close_matches(reason.split("'")[1], list(map(str, first)), n=1)
        meant = f"did you mean '{likely[0]}'? " if likely else ""
        return f"{meant}The first row has {there}; say in data.columns what they mean"
    return (
        "repair them (see dead_letter/), or say in data.columns what the columns mean; "
        f"the first row has {there}"
    )


def _check(outcome: Outcome, data: DataConfig) -> None:
    """A run needs questions to train on and to test with."""
    if not outcome.num_read:
        raise DataError(f"{data.path}: no rows; set data.path to a file or folder with questions")
    if not outcome.num_usable:
        reasons = {k: n for k, n in outcome.counts.most_common() if k.startswith("reason/")}
        worst = "; ".join(f"{key.removeprefix('reason/')} ({n})" for key, n in islice(reasons.items(), 3))
        raise DataError(
            f"{data.path}: none of the {outcome.num_read} rows is usable: {worst}; "
            f"{_way_out(next(iter(reasons)).removeprefix('reason/'), data)}"
        )
    for split, way_out in (
        ("train", "lower data.dev_fraction and data.test_fraction"),
        ("test", "raise data.test_fraction"),
    ):
        if not outcome.counts[f"split/{split}"]:
            raise DataError(
                f"{data.path}: none of the {outcome.num_usable} usable rows is in split '{split}'; "
                f"{way_out}, raise data.limit, or give the rows a column 'split'"
            )
