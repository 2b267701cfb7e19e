"""A teacher whose weights are quantised, loaded by transformers as its folder says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)

from cotray.config import DecodingConfig, TeacherConfig
from cotray.models.loading import load_for_inference, load_model, load_tokenizer
from cotray.prompts.teacher import render_request
from cotray.records import TeacherRequest
from cotray.teacher.transformers_teacher import TransformersTeacher

REQUESTS = [
    TeacherRequest(
        str(index), "yes_no", f"Does a {word} swim?", ("yes", "no"), target, target_answer=target,
        contrast_answer=other,
    )
    for index, (word, target, other) in enumerate(
        [("cat", "yes", "no"), ("stone", "no", "yes"), ("grey heron", "yes", "no"), ("tin", "no", "yes")]
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def int8_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight bits for weights, a scale per row, and for what they are multiplied with, a scale per token."""
    folder = str(tmp_path_factory.mktemp("int8"))
    model = load_model("random:llama", dtype=torch.float32)
    eight_bits = {"num_bits": 8, "type": "int", "symmetric": True}
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**eight_bits, strategy="channel", dynamic=False),  # type: ignore[arg-type]
        input_activations=QuantizationArgs(**eight_bits, strategy="token", dynamic=True),  # type: ignore[arg-type]
    )
    config = QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"], format="int-quantized")
    apply_quantization_config(model, config)
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "weight_scale")]
    for layer in layers:
        layer.weight_scale.data = layer.weight.data.abs().amax(1, keepdim=True) / 127
        layer.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="int-quantized")
    assert compressor is not None
    compressor.compress_model(model)
    model.save_pretrained(folder)
    load_tokenizer("random:llama").save_pretrained(folder)
    compressor.update_config(folder)
    return folder


def plain_logprobs(name: str, prompt: str, tokens: list[int]) -> list[float]:
    """Of each token after the prompt and those before it, by a forward pass over the whole text."""
    model, tokenizer = load_for_inference(name, dtype="float32")
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    with torch.inference_mode():
        logits = model(torch.tensor([[*ids, *tokens]]), use_cache=False).logits[0]
    logprobs = logits.float().log_softmax(-1)
    return [logprobs[len(ids) - 1 + place, token].item() for place, token in enumerate(tokens)]


def test_a_teacher_of_eight_bits_writes_in_batches_what_its_own_logits_say(int8_model: str) -> None:
    """Up to what rounding to eight bits makes of differences in the last place; its weights are not those it
    was quantised from."""
    config = TeacherConfig(
        model=int8_model,
        dtype="float32",
        max_pairs=3,
        num_demonstrations=1,
        record_scores=True,
        decoding=DecodingConfig(max_new_tokens=12, plausibility=0),
    )
    teacher = TransformersTeacher(config, method="contrast-wrong")
    off_own, off_original = [], []
    for request, decoded, row in zip(
        REQUESTS, teacher.decode(REQUESTS), teacher.generate(REQUESTS), strict=True
    ):
        prompt, tokens = render_request(request, num_demonstrations=1), list(decoded.tokens)
        for text, recorded in (
            (prompt.grounded, row.grounded_logprobs),
            (prompt.contrast, row.contrast_logprobs),
        ):
            found = np.array(recorded[: len(tokens)])
            off_own += list(abs(found - plain_logprobs(int8_model, text, tokens)))
            off_original += list(abs(found - plain_logprobs("random:llama", text, tokens)))
    assert len(off_own) > 60 and np.mean(off_own) < 0.1
    assert np.mean(off_original) > 5 * np.mean(off_own)
