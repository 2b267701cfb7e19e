"""Examples on disk: read again as they were encoded, by any process of the node, in the same order."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_loop import make_examples

from cotray.config import ModelConfig
from cotray.models.loading import load_tokenizer
from cotray.models.sequences import encode
from cotray.records import TrainExample
from cotray.stages.examples import Source
from cotray.stages.examples import make_examples as make_stage
from cotray.storage.manifest import Manifest, Started
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.training.examples import Examples
from cotray.training.node_examples import StageExamples

MODEL = ModelConfig(model="random:llama")


class AsTheyAre:
    """Rows that are examples already."""

    columns = ()

    def __call__(self, rows, *, is_encoder_decoder):
        yield from ([row] for row in rows)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_tokenizer(MODEL.model)  # from the cache that all tests share
    monkeypatch.setenv("COTRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "examples"


def stage_of(folder: RunFolder, shards: list[list[TrainExample]], max_length: int = 200) -> Manifest:
    folder.begin("rationales", settings={}, input="x", overwrite=True)
    for number, rows in enumerate(shards):
        folder.write_records(f"rationales/part-{number:05}.parquet", rows, TrainExample)
    return make_stage(
        folder,
        "examples",
        [Source("rationales", TrainExample, AsTheyAre())],
        MODEL,
        max_length=max_length,
        settings={"max_length": max_length},
        input="x",
        label="test",
    )


def opened(folder: RunFolder, manifest: Manifest) -> Examples:
    return StageExamples(folder.root, "examples", manifest.fingerprint).opened()


ROWS = [*make_examples(9), TrainExample("dev1", "factual", "q", "a", split="dev", weight=0.3)]


def test_what_is_mapped_is_what_was_encoded_sorted_by_id_whatever_the_shards(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MODEL.model)
    mixed = random.Random(0).sample(ROWS, len(ROWS))
    for number, shards in enumerate(([ROWS], [mixed[:4], [], mixed[4:]])):
        folder = RunFolder(str(tmp_path / str(number)))
        manifest = stage_of(folder, shards)
        assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (len(ROWS), len(ROWS), 0)
        assert manifest.metrics["train-factual"] == 9 and manifest.metrics["dev-factual"] == 1
        examples = opened(folder, manifest)
        for kind, split in (("factual", "train"), ("counterfactual", "train"), ("factual", "dev")):
            expected = sorted((r for r in ROWS if (r.kind, r.split) == (kind, split)), key=lambda r: r.id)
            found = examples.rows(kind, split)
            assert list(found) == [encode(row, tokenizer, is_encoder_decoder=False) for row in expected]
            assert found.lengths.tolist() == [row.num_tokens for row in found]
        assert not examples.rows("rejected")


def test_a_row_over_the_limit_is_a_dead_letter_and_never_cut(tmp_path: Path) -> None:
    """Bytes are tokens: 4 + 5 + the end = 10 in one sequence."""
    folder, row = RunFolder(str(tmp_path)), TrainExample("a", "factual", "abc\n", "defgh")
    assert stage_of(folder, [[row]], max_length=10).num_out == 1
    manifest = stage_of(folder, [[row]], max_length=9)
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (1, 0, 1)
    (letter,) = folder.read_records("dead_letter", DeadLetter)
    assert (letter.stage, letter.id) == ("examples", "a")
    assert letter.reason == "longer than training.max_length (factual)" and letter.row == "abc\ndefgh"


def test_an_interrupted_stage_makes_only_the_shards_that_are_not_there(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    whole = stage_of(folder, [ROWS[:5], ROWS[5:]])
    (tmp_path / "examples/.stage/manifest.json").unlink()
    (tmp_path / "examples/rationales-part-00001.parquet").unlink()
    first = tmp_path / "examples/rationales-part-00000.parquet"
    before = first.stat().st_mtime_ns
    folder.write_state("examples", Started(whole.settings, whole.input))
    again = stage_of(folder, [ROWS[:5], ROWS[5:]])
    assert again.files == whole.files and again.metrics == whole.metrics
    assert first.stat().st_mtime_ns == before


def test_a_finished_stage_is_kept_and_made_again_for_another_limit(
    tmp_path: Path,
) -> None:
    folder = RunFolder(str(tmp_path))
    first = stage_of(folder, [ROWS])
    assert stage_of(folder, [ROWS]) == first
    other = stage_of(folder, [ROWS], max_length=199)
    assert other.fingerprint != first.fingerprint
    assert folder.version("examples/rationales-part-00000.parquet") == other.fingerprint


def test_the_nodes_file_is_made_once_and_forgotten_while_it_is_still_open(
    tmp_path: Path, cache: Path
) -> None:
    folder = RunFolder(str(tmp_path))
    stage = StageExamples(folder.root, "examples", stage_of(folder, [ROWS]).fingerprint)
    examples = stage.opened()
    (made,) = (path for path in cache.iterdir() if path.is_dir())
    before = (made / "examples.arrow").stat().st_ino
    again = stage.opened()
    assert (made / "examples.arrow").stat().st_ino == before
    stage.forget()
    assert not made.exists()
    assert list(examples.rows("factual")) == list(again.rows("factual"))
    assert not [path for path in cache.iterdir() if path.name.startswith(".making-")]


def test_looking_an_example_up_reads_no_other(tmp_path: Path) -> None:
    """Arrow's own count of what this process allocated, for one example of 20,000."""
    folder = RunFolder(str(tmp_path))
    rows = [TrainExample(f"{n:05}", "factual", "q" * 50, "a") for n in range(4000)]
    examples = opened(folder, stage_of(folder, [rows]))
    before = pa.total_allocated_bytes()
    found = examples.rows("factual")[1234]
    assert found.id == "01234" and pa.total_allocated_bytes() - before < 10_000
    assert isinstance(examples.index.numbers["train-factual"], np.memmap)
