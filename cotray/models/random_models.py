"""Tiny models of random weights and the tokenizer of bytes, for smoke runs, benchmarks and tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cotray.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Enough for attention, sharding and generation to be real; the spread of 0.5 keeps the logits of
# random weights apart, so that rounding cannot change which one is largest. Heads of 32: vLLM's least.
SHAPES = {
    "llama": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                  "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.5},
    "qwen2": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.5},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "max_position_embeddings": 4096, "initializer_range": 0.5},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 4096, "initializer_range": 0.5},
    "opt": {"hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                "max_position_embeddings": 4096, "word_embed_proj_dim": 64, "init_std": 0.5},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
               "initializer_factor": 1.0},
}  # fmt: skip


def make_random(name: str, target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    architecture = name.removeprefix("random:")
    if architecture not in SHAPES:
        raise ConfigError(f"model '{name}': known architectures are {', '.join(SHAPES)}")
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        **SHAPES[architecture],
    )
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_config(config, dtype=torch.float32).save_pretrained(target)
    tokenizer.save_pretrained(target)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer without merges: <pad>, <eos> and the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
