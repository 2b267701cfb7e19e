"""Whatever reads text of data rows, files, models, annotators or clients takes time linear in the text."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from parsers import PARSERS
from parsing import ANYWHERE, Parser

import cotray
from cotray.data.passages import each_pair
from cotray.errors import DataError, cotray_error
from cotray.pools.failure_causes import MAX_CAUSES, causes_of, keep_most_common, key_of
from cotray.pools.monitor import Monitor
from cotray.pools.replica import counts_of
from cotray.storage.run_folder import DeadLetter

MEGABYTE = 1 << 20
ROOT = Path(cotray.__file__).parent
CASES = {
    f"{parser.module.__name__.removeprefix('cotray.')} {parser.name}: {name}": (parser, build)
    for parser in PARSERS
    for name, build in (ANYWHERE | parser.worst).items()
}
OWN = {
    "cotray.config.file": "reads the user's own configuration",
    "cotray.config.references": "reads the user's own configuration",
    "cotray.config.endpoint": "reads the user's own configuration",
    "cotray.models.tokenizers": "writes the special tokens of a model as a pattern of literals",
    "cotray.world.tokenizer": "makes a vocabulary of the world's own texts",
    "cotray.serving.docs_page": "shows the application's own schema",
    "cotray.commands.annotate": "tells files from settings among the user's own arguments",
    "cotray.commands.first_config": "names a run after the user's own path",
    "cotray.config.sweep": "names folders after keys and values of the user's own sweep",
}
"""Modules whose patterns see no text of others, each with the reason."""


def seconds(parser: Parser, text: str) -> float:
    began = time.perf_counter()
    # What is no row, no rating or no question is refused, and that takes its time too.
    with contextlib.suppress(ValueError, RecursionError), contextlib.redirect_stderr(io.StringIO()):
        parser.call(text)
    return time.perf_counter() - began


@pytest.mark.parametrize("name", CASES)
def test_a_megabyte_of_the_worst_text_takes_time_linear_in_it(name: str) -> None:
    parser, build = CASES[name]
    quarter_text, whole_text = build(MEGABYTE // 4), build(MEGABYTE)
    quarter = seconds(parser, quarter_text)
    assert quarter < 5
    whole = seconds(parser, whole_text)
    for _ in range(2):  # a busy machine is slow at times, and not each time
        if whole < max(0.5, 12 * quarter):
            return
        quarter, whole = (
            min(quarter, seconds(parser, quarter_text)),
            min(whole, seconds(parser, whole_text)),
        )
    assert whole < max(0.5, 12 * quarter)


def test_every_module_with_patterns_is_timed_or_reads_no_text_of_others() -> None:
    with_patterns = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for path in ROOT.rglob("*.py")
        if any(map(_imports_patterns, ast.walk(ast.parse(path.read_text("utf-8")))))
    }
    timed = {parser.module.__name__ for parser in PARSERS}
    assert with_patterns - timed - OWN.keys() == set()
    assert OWN.keys() <= with_patterns - timed


def _imports_patterns(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return bool({"re", "regex"} & {name.partition(".")[0] for name in names})


def test_a_passage_of_many_questions_is_read_once_and_its_bad_questions_are_shown(tmp_path: Path) -> None:
    questions = [{"question": ""}, {"question": "Q?", "answer": "a"}, {"question": "R?", "context": "B."}]
    nested = {"data": [{"context": 1, "paragraphs": [{"context": "A  a.", "qas": questions}, {"qas": [{}]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(nested))
    bad, pair, other, none = each_pair(str(tmp_path / "a.json"))
    assert isinstance(bad, DeadLetter) and (bad.reason, json.loads(bad.row)) == (
        "empty question",
        questions[0],
    )
    assert not isinstance(pair, DeadLetter) and pair.passage == "A a."
    assert isinstance(other, DeadLetter) and other.reason == "missing column 'answer'"
    assert isinstance(none, DeadLetter) and none.reason == "column 'context' is not text"


def test_objects_within_each_other_are_read_as_deep_as_squads_levels(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": ' * 900 + '{"question": "Q?"}' + "}" * 900)
    (letter,) = each_pair(str(tmp_path / "a.json"))
    assert isinstance(letter, DeadLetter) and letter.reason == "missing column 'passage'"
    assert letter.row.startswith('{"data": {"data": ')


def test_causes_that_quote_their_rows_are_counted_as_one_beyond_a_number() -> None:
    errors = [f"boom at {name}" for name in map("".join, zip(*["abcdefghij" * 100] * 2, strict=False))]
    rows = [{"error": f"{error} {chr(0x4E00 + place)}"} for place, error in enumerate(errors * 2)]
    counts = counts_of([*rows, *[{"error": "common 7"}] * 5])
    monitor = Monitor()
    for _ in range(3):
        monitor.add(counts)
    for of, times in ((counts, 1), (monitor.counts, 3)):
        causes = causes_of(of)
        assert len(causes) == MAX_CAUSES + 1 and causes["common N"] == 5 * times
        assert sum(causes.values()) == times * (len(rows) + 5) == of["dead_letters"]


def test_the_most_common_causes_are_kept_whatever_the_order() -> None:
    keys = [key_of(f"{chr(0x4E00 + place)}") for place in range(2 * MAX_CAUSES)]
    counts = Counter({key: place for place, key in enumerate(keys)})
    keep_most_common(counts)
    assert set(keys[MAX_CAUSES:]) <= counts.keys() and len(counts) == MAX_CAUSES + 1
    before = counts.copy()
    keep_most_common(counts)
    assert counts == before


def test_text_that_looks_like_an_error_of_ours_is_none() -> None:
    for name in ("Nobody", "re", "cotray_error", "annotations"):
        assert cotray_error(ValueError(f"cotray.errors.{name}: x")) is None
    assert isinstance(cotray_error(ValueError("cotray.errors.DataError: x")), DataError)
