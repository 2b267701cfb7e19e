"""The batched teacher against the one-pair loop: token for token in float32, whatever the batching."""

import gc
import math
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from cotray.config import DecodingConfig, TeacherConfig
from cotray.errors import ConfigError
from cotray.models.loading import load_for_inference, load_model
from cotray.models.random_models import SHAPES, byte_tokenizer
from cotray.models.tokenizers import with_own_end
from cotray.prompts.teacher import render_choices, render_request
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.teacher.fake_teacher import FakeTeacher
from cotray.teacher.one_pair_loop import one_pair_loop
from cotray.teacher.slot_cache import SlotCache
from cotray.teacher.transformers_teacher import TransformersTeacher, stop_tokens

ARCHITECTURES = ("llama", "qwen2", "gpt_neox", "gpt2", "opt")
WORDS = ["a", "cat", "river", "eat", "blue", "run", "seven", "houses", "under", "Rome"]


def config(
    architecture: str = "llama", *, max_pairs: int = 8, num_demonstrations: int = 1, **decoding
) -> TeacherConfig:
    settings: dict = {"max_new_tokens": 20} | decoding
    return TeacherConfig(
        model=f"random:{architecture}",
        dtype="float32",
        max_pairs=max_pairs,
        num_demonstrations=num_demonstrations,
        record_scores=True,
        decoding=DecodingConfig(**settings),
    )


def make_requests(count: int) -> list[TeacherRequest]:
    """Ragged questions of three tasks, so that several shared prefixes are in play."""
    random_ = random.Random(0)
    requests = []
    for index in range(count):
        text = " ".join(random_.choice(WORDS) for _ in range(random_.randint(1, 14)))
        task, choices = [
            ("yes_no", ("yes", "no")),
            ("true_false", ("true", "false")),
            ("multiple_choice", ("a small boat", "sand", "ice")),
        ][index % 3]
        target, contrast = choices[index % 2], choices[1 - index % 2]
        requests.append(
            TeacherRequest(
                str(index), task, text, choices, target, target_answer=target, contrast_answer=contrast
            )
        )
    return requests


def loop_results(config: TeacherConfig, requests, *, weights=None, plausibility=0.0) -> list[tuple]:
    model, tokenizer = load_for_inference(config.model, dtype="float32")
    results = []
    for index, request in enumerate(requests):
        prompt = render_request(request, num_demonstrations=config.num_demonstrations)
        tokens, reason = one_pair_loop(
            model,
            tokenizer,
            prompt.grounded,
            prompt.contrast,
            weight=weights[index] if weights else config.decoding.weight,
            plausibility=plausibility,
            max_new_tokens=config.decoding.max_new_tokens,
        )
        results.append((tuple(tokenizer.decode([token]) for token in tokens), reason))
    return results


def results_of(rationales: list[Rationale]) -> list[tuple]:
    return [(r.tokens, r.stop_reason) for r in rationales]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_teacher_equals_the_one_pair_loop(architecture: str) -> None:
    requests = make_requests(12)
    settings = config(architecture, plausibility=0.1)
    teacher = TransformersTeacher(settings, method="contrast-wrong")
    expected = loop_results(settings, requests, plausibility=0.1)
    assert results_of(teacher.generate(requests)) == expected
    assert len({reason for _, reason in expected}) >= 1


@pytest.mark.parametrize("max_pairs", [1, 3, 8])
def test_tokens_depend_on_neither_batch_size_nor_order(max_pairs: int) -> None:
    """20 requests through 1, 3 or 8 places: every place is given to a waiting pair in mid-flight."""
    requests = make_requests(20)
    settings = config(max_pairs=max_pairs, plausibility=0)
    teacher = TransformersTeacher(settings, method="contrast-wrong")
    expected = loop_results(settings, requests)
    assert results_of(teacher.generate(requests)) == expected
    order = random.Random(1).sample(range(20), 20)
    shuffled = teacher.generate([requests[i] for i in order])
    assert results_of(shuffled) == [expected[i] for i in order]
    assert [r.id for r in shuffled] == [requests[i].id for i in order]


@pytest.mark.parametrize("num_demonstrations", [0, 3])
def test_prompts_without_and_with_a_shared_prefix(num_demonstrations: int) -> None:
    requests = make_requests(6)
    settings = config("qwen2", num_demonstrations=num_demonstrations, plausibility=0)
    teacher = TransformersTeacher(settings, method="contrast-wrong")
    assert results_of(teacher.generate(requests)) == loop_results(settings, requests)


def test_empty_contrast_and_greedy_equal_the_loop() -> None:
    requests = [
        TeacherRequest(**{**r.__dict__, "contrast_answer": "", "perturbation": "empty"})
        for r in make_requests(6)
    ]
    settings = config(plausibility=0)
    empty = TransformersTeacher(settings, method="contrast-empty")
    assert results_of(empty.generate(requests)) == loop_results(settings, requests)
    greedy = TransformersTeacher(settings, method="greedy")
    assert results_of(greedy.generate(requests)) == loop_results(settings, requests, weights=[0.0] * 6)


def test_every_request_may_have_its_own_weight() -> None:
    requests, weights = make_requests(5), [0.0, 0.25, 0.5, 0.75, 1.0]
    settings = config(plausibility=0)
    teacher = TransformersTeacher(settings, method="contrast-wrong")
    expected = loop_results(settings, requests, weights=weights)
    assert results_of(teacher.generate(requests, weights=weights)) == expected


def test_recorded_scores_are_the_models_own() -> None:
    """Re-computed by one plain forward pass over prompt and rationale, per branch."""
    request = make_requests(1)[0]
    settings = config(plausibility=0)
    teacher = TransformersTeacher(settings, method="contrast-wrong")
    rationale, tokens = teacher.generate([request])[0], teacher.decode([request])[0].tokens
    model, tokenizer = load_for_inference(settings.model, dtype="float32")
    prompt = render_request(request, num_demonstrations=1)
    assert len(tokens) > 3
    for text, logprobs, greedy_logprobs in (
        (prompt.grounded, rationale.grounded_logprobs, rationale.greedy_grounded_logprobs),
        (prompt.contrast, rationale.contrast_logprobs, rationale.greedy_contrast_logprobs),
    ):
        ids = tokenizer(text).input_ids
        logp_KV = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        if text == prompt.grounded:
            greedy = logp_KV.argmax(-1).tolist()
        for scores, of in ((logprobs, tokens), (greedy_logprobs, greedy)):
            expected = [logp_KV[index, token].item() for index, token in enumerate(of)]
            assert scores == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("method", ["greedy", "contrast-wrong"])
def test_draws_do_not_depend_on_batching_or_order(method: str) -> None:
    requests = make_requests(6)
    options = {"num_samples": 2, "temperature": 0.8}
    drawn = {
        (r.id, r.sample): r.tokens
        for r in TransformersTeacher(config(**options), method=method, seed=3).generate(requests)
    }
    one_by_one = TransformersTeacher(config(max_pairs=1, **options), method=method, seed=3)
    for rationale in one_by_one.generate(requests[::-1]):
        assert drawn[rationale.id, rationale.sample] == rationale.tokens
    assert len(set(drawn.values())) == 12
    other_seed = TransformersTeacher(config(**options), method=method, seed=4).generate(requests)
    assert all(drawn[r.id, r.sample] != r.tokens for r in other_seed)


def test_a_draw_that_stops_alone_is_the_plain_teachers_stop_and_keeps_its_evidence() -> None:
    """The recorded greedy token is what greedy decoding takes, not what was drawn."""
    rows = TransformersTeacher(config(num_samples=4), method="greedy", seed=1).generate(make_requests(4))
    assert any(row.tokens != row.greedy_tokens for row in rows)
    assert {row.stop_reason for row in rows} <= {"greedy_stop", "eos", "length"}
    for row in rows:
        pairs = zip(row.grounded_logprobs, row.greedy_grounded_logprobs, strict=True)
        assert all(taken <= greedy for taken, greedy in pairs)


def test_counterfactual_requests_swap_the_branches() -> None:
    request = make_requests(1)[0]
    prompt = render_request(request, num_demonstrations=0)
    assert prompt.grounded == f"Q: {request.question}\nA: The answer is yes."
    assert prompt.contrast == f"Q: {request.question}\nA: The answer is no."


def test_multiple_choice_prompts_letter_the_choices_and_state_the_text() -> None:
    request = make_requests(3)[2]
    prompt = render_request(request, num_demonstrations=0)
    choices = "Answer Choices:\n(a) a small boat\n(b) sand\n(c) ice"
    assert prompt.grounded == f"Q: {request.question}\n{choices}\nA: The answer is a small boat."


def test_over_long_prompt_becomes_a_row_with_an_error() -> None:
    requests = make_requests(3)
    long = TeacherRequest(**{**requests[1].__dict__, "question": "word " * 1200})
    teacher = TransformersTeacher(config(plausibility=0), method="contrast-wrong")
    rationales = teacher.generate([requests[0], long, requests[2]])
    assert "over-long" in rationales[1].error and rationales[1].rationale == ""
    assert [r.error for r in (rationales[0], rationales[2])] == ["", ""]


def test_nothing_to_do_is_no_error() -> None:
    assert TransformersTeacher(config(), method="greedy").generate([]) == []


def test_choice_likelihoods_equal_a_plain_forward_pass() -> None:
    pair = QAPair("1", "multiple_choice", "Where is a cat?", ("on a mat", "on a map", "in Rome"), "on a mat")
    settings = config("gpt2")
    scores = TransformersTeacher(settings, method="contrast-hardest").choice_logprobs(pair)
    model, tokenizer = load_for_inference(settings.model, dtype="float32")
    stem, choices = render_choices(pair, num_demonstrations=1)
    start = len(tokenizer(stem).input_ids)
    for choice, score in zip(choices, scores, strict=True):
        ids = tokenizer(stem + choice).input_ids
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(logp[i - 1, ids[i]].item() for i in range(start, len(ids)))
        assert score == pytest.approx(expected, abs=1e-3)


def test_stop_tokens_are_found_by_their_text() -> None:
    _, tokenizer = load_for_inference("random:llama")
    stops = stop_tokens(tokenizer, with_own_end(tokenizer, None), DecodingConfig())
    newline = tokenizer("\n").input_ids[0]
    assert stops.text_before_break == {newline: ""}
    assert stops.eos == frozenset([tokenizer.eos_token_id])


def wide_model(folder: Path, *, loud: int, **generation: Any) -> str:
    """A model with 42 more places than its tokenizer has tokens, which likes the token `loud` best."""
    tokenizer = byte_tokenizer()
    shape = SHAPES["llama"] | {"pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False}
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 42, **shape))
    with torch.no_grad():
        model.lm_head.weight[loud] = 3 * model.lm_head.weight[model.lm_head.weight.norm(dim=1).argmax()]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(**{"eos_token_id": 1} | generation).save_pretrained(folder)
    return str(folder)


def test_places_that_the_tokenizer_does_not_know_are_never_chosen(tmp_path: Path) -> None:
    settings = config("llama").model_copy(update={"model": wide_model(tmp_path, loud=280)})
    requests = make_requests(12)
    plain = load_model(settings.model, dtype=torch.float32)
    for method, num_branches in (("greedy", 1), ("contrast-wrong", 2)):
        teacher = TransformersTeacher(settings, method=method)
        for decoded, request in zip(teacher.decode(requests), requests, strict=True):
            assert all(token < len(teacher.tokenizer) for token in decoded.tokens)
            prompt = render_request(request, num_demonstrations=settings.num_demonstrations)
            texts = [prompt.grounded, prompt.contrast][:num_branches]
            rows = [teacher.tokenizer(text, return_tensors="pt").input_ids for text in texts]
            logp = [plain(input_ids=row).logits[0, -1, :258].log_softmax(-1) for row in rows]
            scores = logp[0] - (settings.decoding.weight * logp[1] if num_branches == 2 else 0)
            kept = scores.masked_fill(logp[0] < logp[0].max() + math.log(0.1), -math.inf)
            if decoded.tokens:
                assert decoded.tokens[0] == int(kept.argmax())


def test_each_end_of_the_models_generation_settings_ends_a_rationale(tmp_path: Path) -> None:
    name = wide_model(tmp_path, loud=77, eos_token_id=[1, 77])
    settings = config("llama").model_copy(update={"model": name})
    teacher = TransformersTeacher(settings, method="greedy")
    decoded = teacher.decode(make_requests(12))
    assert all(77 not in one.tokens for one in decoded)
    assert any(one.stop_reason == "eos" for one in decoded)


@pytest.mark.parametrize("method", ["greedy", "contrast-wrong"])
def test_a_rationale_ends_before_the_stop_text_over_however_many_tokens_it_is_written(method: str) -> None:
    requests = make_requests(12)
    whole = TransformersTeacher(config(stop="eos", max_new_tokens=40), method=method).generate(requests)
    text = next(row.rationale for row in whole if len(row.rationale) > 12)
    for marker in (text[5:8], text[4]):  # a token each byte, so of three tokens and of one
        settings = config(stop=f"text:{marker}", max_new_tokens=40)
        for row, full in zip(
            TransformersTeacher(settings, method=method).generate(requests), whole, strict=True
        ):
            is_there = marker in full.rationale
            assert row.rationale == full.rationale.partition(marker)[0].strip()
            assert (row.stop_reason == "text") == is_there or not row.rationale
            assert is_there or row.num_tokens == full.num_tokens


def test_stop_rules_other_than_lines_let_lines_stand() -> None:
    for stop in ("eos", "paragraph", "text:END"):
        stops = stop_tokens(byte_tokenizer(), frozenset({1}), DecodingConfig(stop=stop))
        assert stops.text_before_break == {} and stops.stop(12, 12) == ("", "")
    paragraph = stop_tokens(byte_tokenizer(), frozenset({1}), DecodingConfig(stop="paragraph"))
    ids = byte_tokenizer()("a\nb\n\n").input_ids
    assert [paragraph.has_text(ids[:n]) for n in range(1, 6)] == [False, False, False, False, True]


@pytest.mark.parametrize("stop", ["", "text:", "word", "line "])
def test_a_stop_rule_that_is_none_is_refused(stop: str) -> None:
    with pytest.raises(ValueError, match="must be line, paragraph, eos, or text:"):
        DecodingConfig(stop=stop)


def test_models_whose_attention_cannot_be_batched_are_refused(tmp_path) -> None:
    """BLOOM adds position biases inside its attention; the engine must notice, not emit other tokens."""
    from transformers import BloomConfig, BloomForCausalLM

    _, tokenizer = load_for_inference("random:llama")
    bloom = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(bloom).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = TeacherConfig(model=str(tmp_path), dtype="float32")
    with pytest.raises(ConfigError, match="cannot be batched in slots"):
        TransformersTeacher(settings, method="greedy")


def test_prompts_beyond_a_sliding_window_are_refused(tmp_path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    _, tokenizer = load_for_inference("random:llama")
    mistral = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=64,
        head_dim=8,
    )
    MistralForCausalLM(mistral).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = TeacherConfig(model=str(tmp_path), dtype="float32", num_demonstrations=3)
    teacher = TransformersTeacher(settings, method="greedy")
    with pytest.raises(ConfigError, match="attention window of 64"):
        teacher.generate(make_requests(1))


def test_a_slot_cache_row_equals_a_plain_forward_pass() -> None:
    """Two rows of different length, added in pieces, against one pass over each whole sequence."""
    model, _ = load_for_inference("random:llama", dtype="float32")
    ids = torch.randint(2, 200, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = [ids[:9] + ids[9:20], ids[:9] + ids[15:30]]
    expected = [model(torch.tensor([row])).logits[0, -1] for row in whole]
    cache = SlotCache(model, num_slots=2)
    cache.reserve(16)
    cache.forward_prefix(ids[:9])
    cache.forward([ids[9:12], ids[15:23]], [0, 1], [0, 0])
    logits = cache.forward([ids[12:20], ids[23:30]], [0, 1], [3, 8])[:, -1]
    for row in range(2):
        assert torch.allclose(logits[row], expected[row], atol=1e-3)


def test_fake_teacher_depends_on_the_request_alone() -> None:
    requests = make_requests(4)
    teacher = FakeTeacher(config(), method="greedy")
    assert teacher.generate(requests)[2] == teacher.generate(requests[2:3])[0]


def test_a_teacher_that_is_given_up_leaves_no_model_behind() -> None:
    config = TeacherConfig(model="random:llama", max_pairs=1, num_demonstrations=0)
    teacher = TransformersTeacher(config, method="contrast-wrong")
    model = weakref.ref(teacher.model)
    del teacher
    gc.collect()
    assert model() is None
