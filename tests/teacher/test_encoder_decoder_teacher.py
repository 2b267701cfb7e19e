"""Contrastive decoding with encoder-decoders equals SCOTT's loop over one pair at a time, without caches."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch

from cotray.config import DecodingConfig, TeacherConfig
from cotray.errors import ConfigError
from cotray.models.loading import load_for_inference
from cotray.prompts.teacher import render_request
from cotray.records import QAPair, TeacherRequest
from cotray.teacher.encoder_decoder_teacher import transformers_teacher
from cotray.teacher.teacher import build_teacher

WORDS = ["a", "cat", "river", "eat", "blue", "run", "seven", "houses", "under", "Rome"]
LENGTH, WEIGHT, MASK = 12, 0.5, 0.1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of untrained models with weights so large that what they read changes what they write."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    _, tokenizer = load_for_inference("random:t5")
    ids: dict = {"vocab_size": len(tokenizer) + 7, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    shapes = {
        "t5": AutoConfig.for_model(
            "t5", **ids, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        ),
        "bart": AutoConfig.for_model(
            "bart",
            **ids,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=1024,
            decoder_start_token_id=1,
            forced_bos_token_id=5,
        ),
    }
    folders = {}
    for name, shape in shapes.items():
        folder = str(tmp_path_factory.mktemp(name))
        model = AutoModelForSeq2SeqLM.from_config(shape)
        generator = torch.Generator().manual_seed(0)
        for key, weight in model.named_parameters():
            if "norm" not in key:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.5
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[name] = folder
    return folders


def config(model: str, *, max_pairs: int = 8, **decoding: object) -> TeacherConfig:
    settings: dict = {"max_new_tokens": LENGTH, "weight": WEIGHT, "plausibility": MASK} | decoding
    return TeacherConfig(
        model=model,
        dtype="float32",
        max_pairs=max_pairs,
        num_demonstrations=1,
        record_scores=True,
        decoding=DecodingConfig(**settings),
    )


def make_requests(count: int) -> list[TeacherRequest]:
    """Ragged questions of two tasks."""
    random_ = random.Random(0)
    texts = [" ".join(random_.choices(WORDS, k=random_.randint(1, 14))) for _ in range(count)]
    return [
        TeacherRequest(
            str(n), "yes_no", text, ("yes", "no"), "yes", target_answer="yes", contrast_answer="no"
        )
        if n % 2
        else TeacherRequest(
            str(n), "true_false", text, ("true", "false"), "false", target_answer="false",
            contrast_answer="true",
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip


@cache
def loaded(folder: str) -> tuple[Any, Any]:
    return load_for_inference(folder, dtype="float32")


@torch.inference_mode()
def written_by_the_loop(settings: TeacherConfig, request: TeacherRequest, weight: float) -> list[int]:
    """Every token from the whole texts anew, one branch at a time."""
    model, tokenizer = loaded(settings.model)
    prompt = render_request(request, num_demonstrations=settings.num_demonstrations)
    start = [model.config.decoder_start_token_id]
    if (forced := getattr(model.generation_config, "forced_bos_token_id", None)) is not None:
        start.append(forced)
    tokens: list[int] = []
    while len(tokens) < settings.decoding.max_new_tokens:
        logps = []
        for text in (prompt.grounded, prompt.contrast):
            ids = tokenizer(text, return_tensors="pt").input_ids
            written = torch.tensor([[*start, *tokens]])
            logits = model(input_ids=ids, decoder_input_ids=written).logits[0, -1, : len(tokenizer)]
            logps.append(logits.float().log_softmax(-1))
        grounded, contrast = logps
        scores = grounded - weight * contrast if weight else grounded.clone()
        if weight:
            scores[grounded.exp() < MASK * grounded.exp().max()] = -torch.inf
        chosen = int(scores.argmax())
        if tokenizer.eos_token_id in (chosen, int(grounded.argmax())):
            break
        tokens.append(chosen)
    return tokens


def texts(settings: TeacherConfig, tokens: list[int]) -> tuple[str, ...]:
    _, tokenizer = loaded(settings.model)
    return tuple(str(tokenizer.decode([token])) for token in tokens)


@pytest.mark.parametrize("max_pairs", [1, 3])
@pytest.mark.parametrize("model", ["t5", "bart"])
def test_batched_pairs_have_the_tokens_of_the_one_pair_loop_in_any_order(
    models: dict[str, str], model: str, max_pairs: int
) -> None:
    requests = make_requests(10)
    settings = config(models[model], max_pairs=max_pairs)
    teacher = build_teacher(settings, method="contrast-wrong")
    expected = [texts(settings, written_by_the_loop(settings, request, WEIGHT)) for request in requests]
    assert [row.tokens for row in teacher.generate(requests)] == expected
    order = random.Random(1).sample(range(10), 10)
    assert [row.tokens for row in teacher.generate([requests[i] for i in order])] == [
        expected[i] for i in order
    ]
    assert len(set(expected)) > 1 and any(expected)


def test_greedy_decoding_reads_one_branch_and_contrast_changes_what_is_written(
    models: dict[str, str],
) -> None:
    requests, settings = make_requests(8), config(models["t5"])
    greedy = [row.tokens for row in build_teacher(settings, method="greedy").generate(requests)]
    assert greedy == [texts(settings, written_by_the_loop(settings, request, 0.0)) for request in requests]
    strong = config(models["t5"], weight=0.9, plausibility=0.0)
    contrast = [row.tokens for row in build_teacher(strong, method="contrast-wrong").generate(requests)]
    assert contrast != greedy


def test_draws_do_not_depend_on_what_is_decoded_beside_them(models: dict[str, str]) -> None:
    requests = make_requests(6)

    def drawn(max_pairs: int) -> list[tuple[str, ...]]:
        settings = config(models["t5"], max_pairs=max_pairs, num_samples=3, temperature=0.7)
        rows = build_teacher(settings, method="contrast-wrong", seed=5).generate(requests)
        return [row.tokens for row in rows]

    assert drawn(2) == drawn(16) and len(set(drawn(16))) > 6


@pytest.mark.parametrize("model", ["t5", "bart"])
def test_log_probabilities_of_choices_are_the_models_own_loss(models: dict[str, str], model: str) -> None:
    settings = config(models[model])
    pair = QAPair("1", "multiple_choice", "Where is sand?", ("a small boat", "sand", "ice"), "sand")
    teacher = build_teacher(settings, method="contrast-hardest")
    weights, tokenizer = load_for_inference(settings.model, dtype="float32")
    stem, choices = teacher.prompts.choices(pair)  # type: ignore[attr-defined]
    source = tokenizer(stem, return_tensors="pt").input_ids
    forced = getattr(weights.generation_config, "forced_bos_token_id", None)
    for choice, actual in zip(choices, teacher.choice_logprobs(pair), strict=True):
        ids = tokenizer(choice.strip(), add_special_tokens=False).input_ids
        before = [] if forced is None else [forced]
        labels = torch.tensor([[*[-100] * len(before), *ids]])
        read = torch.tensor([[weights.config.decoder_start_token_id, *before, *ids][: labels.shape[1]]])
        loss = weights(input_ids=source, decoder_input_ids=read, labels=labels).loss.item()
        assert actual == pytest.approx(-loss * len(ids), abs=1e-3)


def test_a_prompt_beyond_the_positions_is_a_row_with_an_error_and_a_chat_is_refused(
    models: dict[str, str],
) -> None:
    settings, limit = config(models["bart"]), 1024
    requests = make_requests(3)
    text = "cat " * limit
    requests[1] = TeacherRequest(
        "1", "yes_no", text, ("yes", "no"), "yes", target_answer="yes", contrast_answer="no"
    )
    rows = build_teacher(settings, method="contrast-wrong").generate(requests)
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert "over-long: the prompt needs" in rows[1].error and f"of {limit}" in rows[1].error
    model, tokenizer = load_for_inference(settings.model)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    chat = settings.model_copy(update={"prompt": "chat"})
    with pytest.raises(ConfigError, match=r"encoder-decoder.*teacher\.prompt=completion"):
        transformers_teacher(chat, method="greedy", loaded=(model, tokenizer))
