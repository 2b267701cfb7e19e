"""Replies that were paid for are on disk, whatever their text, and count for the whole run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cotray.errors import DataError
from cotray.storage.folder import Folder
from cotray.storage.paid_replies import MAX_PER_FILE, PaidReplies, PaidReply, replies_of, usage


def add(run_dir: Path, account: Path, *replies: PaidReply) -> None:
    async def add_all() -> None:
        paid = PaidReplies(str(run_dir), account=str(account))
        await asyncio.gather(*(paid.add(reply) for reply in replies))

    asyncio.run(add_all())


def reply(request: str, text: str = "t", **fields) -> PaidReply:
    return PaidReply(request, "rationales", f"row {request}", text, "stop", 100, 10, **fields)


def test_replies_added_at_once_are_all_there_in_few_files(tmp_path: Path) -> None:
    added = [reply(str(n), text=f"a\nb\u2028c {n} 🧊") for n in range(2 * MAX_PER_FILE + 1)]
    add(tmp_path, tmp_path, *added)
    assert sorted(replies_of(Folder(str(tmp_path))), key=lambda one: int(one.request)) == added
    assert len(list((tmp_path / "replies").iterdir())) <= 3


def test_an_answer_is_found_in_any_folder_of_the_run_and_a_lost_reply_is_none(tmp_path: Path) -> None:
    add(tmp_path / "greedy", tmp_path, reply("1"), reply("2", text="", error="lost"))
    other = PaidReplies(str(tmp_path / "few-shot"), account=str(tmp_path))
    assert other.answer_to("1") == reply("1") and other.answer_to("2") is None
    assert len(other.all) == 2
    alone = PaidReplies(str(tmp_path / "greedy"), account=str(tmp_path / "greedy"))
    assert len(alone.all) == 2


def test_usage_is_of_one_stage_with_what_was_lost(tmp_path: Path) -> None:
    add(tmp_path, tmp_path, reply("1"), reply("2", error="lost"), PaidReply("3", "answers", "r", "t"))
    assert usage(replies_of(Folder(str(tmp_path))), "rationales") == {
        "requests": 2,
        "tokens_in": 200,
        "tokens_out": 20,
    }


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    add(tmp_path, tmp_path, reply("1"))
    [file] = (tmp_path / "replies").iterdir()
    file.write_text(file.read_text() + "{\n")
    with pytest.raises(DataError, match=rf"{file.name} line 2: not a reply"):
        PaidReplies(str(tmp_path), account=str(tmp_path))
