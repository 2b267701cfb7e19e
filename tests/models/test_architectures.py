"""Tiny random models of many architectures: what is kept, exported and read again is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from cotray.errors import ConfigError
from cotray.models.loading import layer_stacks, load_model
from cotray.models.random_models import byte_tokenizer
from cotray.training.checkpoint import TrainState
from cotray.training.model_folder import export

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "mistral": {**SMALL, "sliding_window": 4},
    "mixtral": {**SMALL, "num_local_experts": 4},
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 16},
    "qwen3_moe": {**SMALL, **EXPERTS, "head_dim": 16},
    "gemma": {**SMALL, "head_dim": 16},
    "gemma2": {**SMALL, "head_dim": 16, "sliding_window": 4},
    "gemma3_text": {**SMALL, "head_dim": 16, "sliding_window": 4, "sliding_window_pattern": 3},
    "cohere2": {**SMALL, "sliding_window": 4, "sliding_window_pattern": 3},
    "smollm3": {**SMALL, "no_rope_layers": [1, 0, 1, 1, 0, 1]},
    "phi3": SMALL,
    "olmo2": SMALL,
    "granite": SMALL,
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2},
    "gpt2": {"n_embd": 32, "n_head": 2, "n_layer": 6},
    "opt": {"hidden_size": 32, "ffn_dim": 32, "num_attention_heads": 2, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_head": 2, "n_layer": 6},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 2},
    "bart": {
        "d_model": 32,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    },
}
NUM_LAYERS = 6


def config_of(architecture: str, shape: dict[str, Any], *, num_layers: int) -> Any:
    """For the tokenizer whose tokens are bytes; `num_layers` where the shape's names are the usual ones."""
    return AutoConfig.for_model(
        architecture,
        **{"num_hidden_layers": num_layers} | shape if "hidden_size" in shape else shape,
        vocab_size=len(byte_tokenizer()),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )


def saved(architecture: str, folder: Path) -> Path:
    config = config_of(architecture, ARCHITECTURES[architecture], num_layers=NUM_LAYERS)
    if config.is_encoder_decoder:
        config.decoder_start_token_id = 0
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 17, 40, 41, 42, 60, 61]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("num_layers", [0, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_exported_is_read_again_as_the_model_that_was_trained(
    architecture: str, num_layers: int, tmp_path: Path
) -> None:
    folder = saved(architecture, tmp_path / "pretrained")
    model = load_model(str(folder), dtype=torch.float32, num_layers=num_layers)
    state = TrainState(model, torch.optim.AdamW(model.parameters()))
    with torch.no_grad():  # as a step would change them
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    export(state, byte_tokenizer(), tmp_path / "student")
    again = load_model(str(tmp_path / "student"), dtype=torch.float32)
    assert torch.equal(logits_of(again), logits_of(model))
    assert {len(stack) for stack in layer_stacks(again)} == {num_layers or NUM_LAYERS}


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "phi3", "gemma2", "gpt2", "t5", "bart"])
def test_a_large_model_is_written_in_parts_that_transformers_reads_as_one(
    architecture: str, tmp_path: Path
) -> None:
    """Cut after the first block that reaches a quarter of its size, and at every block."""
    model = load_model(str(saved(architecture, tmp_path / "pretrained")), dtype=torch.float32)
    state = TrainState(model, torch.optim.AdamW(model.parameters()))
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    for most_bytes, at_least in ((size // 4, 2), (1, NUM_LAYERS)):
        target = tmp_path / str(most_bytes)
        export(state, byte_tokenizer(), target, most_bytes=most_bytes)
        files = sorted(path.name for path in target.glob("*.safetensors"))
        assert files == [f"model-{n + 1:05}-of-{len(files):05}.safetensors" for n in range(len(files))]
        assert len(files) >= at_least
        again = load_model(str(target), dtype=torch.float32)
        assert torch.equal(logits_of(again), logits_of(model))
        expected = model.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "key", "kept"),
    [
        ("gemma3_text", "layer_types", ["sliding_attention", "full_attention", "full_attention"]),
        ("cohere2", "layer_types", ["sliding_attention", "full_attention", "full_attention"]),
        ("smollm3", "no_rope_layers", [1, 1, 1]),
    ],
)
def test_kept_layers_stay_of_their_kind(architecture: str, key: str, kept: list, tmp_path: Path) -> None:
    """Of six layers the first, the third or fourth, and the last are kept; 2.5 rounds to the even 2."""
    model = load_model(str(saved(architecture, tmp_path)), dtype=torch.float32, num_layers=3)
    assert getattr(model.config, key) == kept


def test_a_model_whose_files_lack_weights_is_refused_and_not_filled_with_random_ones(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = weights.pop("model.layers.2.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"lack 1 of the weights .*layers\.2\.mlp\.up_proj.*mend config\.json"
    ):
        load_model(str(folder), dtype=torch.float32)
    weights["model.layers.2.mlp.up_proj.weight"] = lost[:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 of the weights .*up_proj"):
        load_model(str(folder), dtype=torch.float32)


def test_a_configuration_of_more_layers_than_the_files_have_is_refused(tmp_path: Path) -> None:
    folder = saved("bart", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decoder_layers": 8}))
    with pytest.raises(ConfigError, match=r"lack 52 of the weights .*decoder\.layers\.6"):
        load_model(str(folder), dtype=torch.float32)
