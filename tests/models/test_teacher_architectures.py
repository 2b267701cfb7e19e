"""The transformers teacher with tiny models of many architectures: exact, or refused with the reason.

docs/reference/models.md has the same table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_architectures import ARCHITECTURES, SMALL, config_of
from transformers import AutoModelForCausalLM

from cotray.config import DecodingConfig, TeacherConfig
from cotray.errors import ConfigError
from cotray.models.loading import load_for_inference
from cotray.models.random_models import byte_tokenizer
from cotray.prompts.teacher import render_request
from cotray.records import TeacherRequest
from cotray.teacher.one_pair_loop import one_pair_loop
from cotray.teacher.transformers_teacher import TransformersTeacher

DOCS = Path(__file__).parents[2] / "docs/reference/models.md"
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
WIDE_HEADS = {**SMALL, "head_dim": 16}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16}
EXACT: dict[str, dict[str, Any]] = {
    **{name: ARCHITECTURES[name] for name in ARCHITECTURES if name not in ("gemma2", "bloom", "t5", "bart")},
    "cohere": SMALL,
    "ernie4_5": WIDE_HEADS,
    "exaone4": SMALL,
    "glm4": WIDE_HEADS,
    "granitemoe": {**SMALL, **EXPERTS},
    "llama4_text": {**WIDE_HEADS, "num_local_experts": 2, "intermediate_size_mlp": 32},
    "nemotron": SMALL,
    "olmoe": {**SMALL, "num_experts": 4, "num_experts_per_tok": 2},
    "phi": {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2},
    "seed_oss": WIDE_HEADS,
    "stablelm": SMALL,
    "starcoder2": {**SMALL, "sliding_window": 4096},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": (ARCHITECTURES["bloom"], "too many values"),
    "deepseek_v3": (
        {**SMALL, "num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
        | {"moe_intermediate_size": 16, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16}
        | {"q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
        "shape mismatch",
    ),
    "falcon": ({"hidden_size": 32, "num_attention_heads": 2, "alibi": False}, "logits differ"),
    "gemma2": (ARCHITECTURES["gemma2"], "softcap"),
    "gpt_oss": ({**WIDE_HEADS, **EXPERTS, "sliding_window": 4096}, "s_aux"),
    "mamba": ({"hidden_size": 32, "state_size": 4}, "(size of tensor|out of range)"),
    "mamba2": (
        {"hidden_size": 32, "state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1},
        "(logits differ|out of range)",
    ),
    "qwen3_next": (
        {**WIDE_HEADS, **LINEAR, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4}
        | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "linear_value_head_dim": 16},
        "list index out of range",
    ),
}

REQUESTS = [
    TeacherRequest(str(n), "yes_no", text, ("yes", "no"), "yes", target_answer="yes", contrast_answer="no")
    for n, text in enumerate(["Is ice cold?", "Do cats eat blue rivers under Rome?", "Run?"])
]


def saved(architecture: str, shape: dict[str, Any], folder: Path) -> TeacherConfig:
    """Windows are wider than the prompts, which have to fit; weights so large that what is read matters."""
    shape = shape | ({"sliding_window": 4096} if "sliding_window" in shape else {})
    config = config_of(architecture, shape, num_layers=2)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" not in name and weight.dim() > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    decoding = DecodingConfig(max_new_tokens=10, weight=0.5, plausibility=0.1)
    return TeacherConfig(
        model=str(folder), dtype="float32", max_pairs=2, num_demonstrations=1, decoding=decoding
    )


@pytest.mark.parametrize("architecture", EXACT)
def test_batched_decoding_has_the_tokens_of_one_pair_at_a_time(architecture: str, tmp_path: Path) -> None:
    settings = saved(architecture, EXACT[architecture], tmp_path)
    teacher = TransformersTeacher(settings, method="contrast-wrong")
    model, tokenizer = load_for_inference(settings.model, dtype="float32")
    for request, decoded in zip(REQUESTS, teacher.decode(REQUESTS), strict=True):
        prompt = render_request(request, num_demonstrations=1)
        tokens, _ = one_pair_loop(
            model, tokenizer, prompt.grounded, prompt.contrast,
            weight=0.5, plausibility=0.1, max_new_tokens=10,
        )  # fmt: skip
        assert decoded.tokens == tokens


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_cannot_be_batched_is_refused_with_reason_and_way_out(architecture: str, tmp_path: Path) -> None:
    shape, reason = REFUSED[architecture]
    with pytest.raises(ConfigError, match=rf"\({architecture}\).*{reason}.*teacher\.engine=vllm"):
        TransformersTeacher(saved(architecture, shape, tmp_path), method="greedy")


def test_the_table_in_the_documentation_says_what_is_tested_here() -> None:
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\w+)", DOCS.read_text("utf-8"), re.M)
    expected = [*((name, "exact") for name in EXACT), *((name, "refused") for name in REFUSED)]
    assert sorted(rows) == sorted([*expected, ("t5", "exact"), ("bart", "exact")])
