"""Two workers that each read their own shards have the weights of one that read all. One spawned group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_architectures import ARCHITECTURES, logits_of, saved
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig
from two_workers import group_of_two, spawn

from cotray.errors import ConfigError
from cotray.models.loading import load_model
from cotray.training.fsdp import reshard, shard
from cotray.training.sharded_loading import load_for_training

# All layers of every architecture, and some layers of dense, tied, mixed and encoder-decoder ones.
CASES = [(name, 0) for name in ARCHITECTURES] + [(n, 3) for n in ("llama", "gemma3_text", "qwen3_moe", "t5")]


def comparison(folder: Path, num_layers: int) -> dict[str, bool]:
    plain = load_model(str(folder), dtype=torch.float32, num_layers=num_layers)
    model = load_for_training(str(folder), num_layers=num_layers, precision="float32")
    has_same_logits = torch.equal(logits_of(model), logits_of(plain))
    reshard(model)
    expected = plain.state_dict()
    tensors = model.state_dict()
    wholes = {
        key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in tensors.items()
    }
    return {
        "logits": has_same_logits,
        "weights": wholes.keys() == expected.keys()
        and all(torch.equal(wholes[key], expected[key]) for key in expected),
        "sharded": all(isinstance(parameter, DTensor) for parameter in model.parameters()),
        "tied": [name for name, _ in model.named_parameters()]
        == [name for name, _ in plain.named_parameters()],
        "config": model.config.to_dict() == plain.config.to_dict(),
    }


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as info:
        load_for_training(str(folder), precision="float32")
    return str(info.value)


def anonymous_bytes() -> int:
    """This process's own memory: without the pages of files that it maps, which all processes share."""
    line = next(
        row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon")
    )
    return 1024 * int(line.split()[1])


def peak_of(load: Callable[[], Any]) -> int:
    """Bytes that `load` adds to this process at the most, looked at all the time by a thread."""
    before, peak, is_over = anonymous_bytes(), 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not is_over.wait(0.001):
            peak = max(peak, anonymous_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    load()
    is_over.set()
    thread.join()
    return peak - before


def load_whole(folder: Path) -> None:
    shard(load_model(str(folder), dtype=torch.float32), "float32")


def measure(rank: int, folder: Path) -> None:
    with group_of_two(rank, folder):
        results: dict[Any, Any] = {case: comparison(folder / case[0], case[1]) for case in CASES}
        results["refusals"] = [refusal(folder / name) for name in ("lacking", "other-size")]
        results["peak"] = peak_of(lambda: load_for_training(str(folder / "large"), precision="float32"))
        results["peak of all"] = peak_of(lambda: load_whole(folder / "large"))
        torch.save(results, folder / f"results-{rank}.pt")


def make_large(folder: Path) -> None:
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=9,
        num_attention_heads=16,
        vocab_size=8192,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("sharded")
    for name in ARCHITECTURES:
        saved(name, path / name)
    for name, change in (
        ("lacking", lambda weight: None),
        ("other-size", lambda weight: weight[:-1].clone()),
    ):
        weights = load_file(saved("llama", path / name) / "model.safetensors")
        key = "model.layers.2.mlp.up_proj.weight"
        changed = change(weights.pop(key))
        kept = weights if changed is None else weights | {key: changed}
        save_file(kept, path / name / "model.safetensors", metadata={"format": "pt"})
    make_large(path / "large")
    spawn(measure, path)
    return path


@pytest.fixture(scope="module")
def results(folder):
    return [torch.load(folder / f"results-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_shards_read_by_two_workers_are_the_model_to_the_bit(results, case):
    for of_rank in results:
        assert of_rank[case] == dict.fromkeys(("logits", "weights", "sharded", "tied", "config"), True)


def test_every_worker_refuses_a_model_whose_files_lack_weights(results):
    for of_rank in results:
        for message in of_rank["refusals"]:
            assert "lack 1 of the weights" in message and "layers.2.mlp.up_proj" in message


def test_two_workers_together_hold_little_more_than_one_copy_while_they_load(results, folder):
    """Peaks of anonymous memory above what it was before, for a file in bfloat16 and weights in float32."""
    one_copy = 2 * (folder / "large" / "model.safetensors").stat().st_size
    assert one_copy > 4.5e8
    assert sum(of_rank["peak"] for of_rank in results) < 1.3 * one_copy
    assert sum(of_rank["peak of all"] for of_rank in results) > 2 * one_copy
