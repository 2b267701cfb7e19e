"""The vLLM teacher, with real engines: token for token the transformers teacher's rationales.

Every engine runs in a process of its own, which returns plain values and is gone afterwards.
"""

import random
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES, chat_model
from forked import in_process
from vllm_runners import begin_steps_early

from cotray.config import DecodingConfig, TeacherConfig
from cotray.config.references import Reference
from cotray.config.world import WorldConfig
from cotray.data.perturbation import Source, requests_of
from cotray.errors import ConfigError
from cotray.inference.engine_arguments import typed
from cotray.models.locations import model_path
from cotray.records import QAPair, Rationale, Task, TeacherRequest
from cotray.teacher.contrastive import StopTokens
from cotray.teacher.lockstep import Refused, Row
from cotray.world import models
from cotray.world.questions import rows

pytestmark = pytest.mark.vllm

WORDS = ["a", "cat", "river", "eat", "blue", "run", "seven", "houses", "under", "Rome"]


def make_requests(count: int, *, longest: int = 14) -> list[TeacherRequest]:
    random_ = random.Random(0)
    requests = []
    tasks: list[tuple[Task, tuple[str, str]]] = [
        ("yes_no", ("yes", "no")),
        ("true_false", ("true", "false")),
    ]
    for index in range(count):
        text = " ".join(random_.choice(WORDS) for _ in range(random_.randint(1, longest)))
        task, choices = tasks[index % 2]
        target, contrast = choices[index % 3 % 2], choices[1 - index % 3 % 2]
        requests.append(
            TeacherRequest(
                str(index), task, text, choices, target, target_answer=target, contrast_answer=contrast
            )
        )
    return requests


def config(
    model: str, *, engine: str = "vllm", engine_args: dict | None = None, **options: Any
) -> TeacherConfig:
    decoding: dict = {"max_new_tokens": 20, "plausibility": 0.0} | options.pop("decoding", {})
    settings: dict = {"max_pairs": 8, "num_demonstrations": 1, "record_scores": True} | options
    return TeacherConfig(
        engine=engine,  # type: ignore[arg-type]
        model=model,
        dtype="float32",
        engine_args={"max_model_len": 2048, "kv_cache_memory_bytes": 256 << 20} | (engine_args or {})
        if engine == "vllm"
        else {},
        decoding=DecodingConfig(**decoding),
        **settings,
    )


def transformers_results(settings: TeacherConfig, method: str, requests, weights=None) -> list[Rationale]:
    from cotray.teacher.transformers_teacher import TransformersTeacher

    settings = settings.model_copy(update={"engine": "transformers", "engine_args": {}})
    return TransformersTeacher(settings, method=method, seed=7).generate(requests, weights=weights)


def transformers_tokens(settings: TeacherConfig, method: str, requests) -> list[list[int]]:
    from cotray.teacher.transformers_teacher import TransformersTeacher

    settings = settings.model_copy(update={"engine": "transformers", "engine_args": {}})
    return [decoded.tokens for decoded in TransformersTeacher(settings, method=method).decode(requests)]


def vllm_results(settings: TeacherConfig, method: str, requests, weights=None) -> list[Rationale]:
    from cotray.teacher.vllm_teacher import VllmTeacher

    teacher = VllmTeacher(settings, method=method, seed=7)
    try:
        return teacher.generate(requests, weights=weights)
    finally:
        teacher.close()


def assert_same(actual: list[Rationale], expected: list[Rationale]) -> None:
    fields = ("id", "sample", "tokens", "greedy_tokens", "stop_reason", "rationale", "num_tokens", "error")
    scores = (
        "grounded_logprobs",
        "contrast_logprobs",
        "greedy_grounded_logprobs",
        "greedy_contrast_logprobs",
    )
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert {f: getattr(a, f) for f in fields} == {f: getattr(e, f) for f in fields}
        for name in scores:
            assert getattr(a, name) == pytest.approx(getattr(e, name), abs=1e-3), (a.id, name)


def once_more(*values: Any) -> Any:
    """A parameter with which another one's claim is tested again."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("architecture", "is_compiled"),
    [("llama", False), once_more("llama", True)]
    + [once_more(name, False) for name in ("qwen2", "gpt2", "opt")],
)
def test_random_models_give_the_transformers_engines_tokens_and_scores(
    architecture: str, is_compiled: bool
) -> None:
    """Compiled, as users run them, takes 12 s and more each."""
    engine_args = {"enforce_eager": not is_compiled}
    settings, requests = config(f"random:{architecture}", engine_args=engine_args), make_requests(24)
    weights = [(0.0, 0.3, 0.5, 1.0)[index % 4] for index in range(24)]
    expected = transformers_results(settings, "contrast-wrong", requests, weights)
    assert any(r.tokens != r.greedy_tokens for r in expected), "contrast must change something"
    assert_same(in_process(vllm_results, settings, "contrast-wrong", requests, weights), expected)


@pytest.mark.parametrize("name", ["qwen", once_more("llama"), once_more("gemma")])
def test_both_engines_write_the_same_in_a_chat_and_no_place_without_a_token(
    name: str, tmp_path: Path
) -> None:
    model = chat_model(tmp_path, TEMPLATES[name], num_unused=30)
    settings = config(model, prompt="chat", instructions="Be brief.")
    requests = make_requests(12)
    expected = transformers_results(settings, "contrast-wrong", requests)
    assert any(row.tokens for row in expected)
    assert_same(in_process(vllm_results, settings, "contrast-wrong", requests), expected)


def test_both_engines_end_before_the_same_stop_text() -> None:
    requests = make_requests(12)
    whole = config("random:llama", decoding={"stop": "eos", "max_new_tokens": 30})
    text = next(r.rationale for r in transformers_results(whole, "contrast-wrong", requests) if r.rationale)
    settings = config("random:llama", decoding={"stop": f"text:{text[3:5]}", "max_new_tokens": 30})
    expected = transformers_results(settings, "contrast-wrong", requests)
    assert {"text", "length"} <= {row.stop_reason for row in expected}
    assert_same(in_process(vllm_results, settings, "contrast-wrong", requests), expected)


def early_results(settings: TeacherConfig, requests) -> tuple[str, list[Rationale]]:
    from cotray.teacher.vllm_teacher import VllmTeacher

    begin_steps_early()
    teacher = VllmTeacher(settings, method="contrast-wrong", seed=7)
    client: Any = teacher.engine._engine.engine_core
    return type(client.engine_core.scheduler).__name__, teacher.generate(requests)


def test_steps_that_begin_before_the_last_has_ended_keep_pairs_together() -> None:
    """As on GPUs. Some prompts do not fit into one step, so that their rows part."""
    settings, requests = (
        config("random:llama", engine_args={"max_num_batched_tokens": 128}),
        make_requests(24),
    )
    scheduler, actual = in_process(early_results, settings, requests)
    assert scheduler == "AsyncScheduler" and sum(row.splits for row in actual) > 0
    assert_same(actual, transformers_results(settings, "contrast-wrong", requests))


def sharded_results(settings: TeacherConfig, requests) -> list[Rationale]:
    import os

    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # one NUMA node would be one shard
    return vllm_results(settings, "contrast-wrong", requests)


@pytest.mark.long
def test_two_shards_of_the_model_give_the_same_tokens() -> None:
    settings = config("random:llama", engine_args={"tensor_parallel_size": 2})
    requests = make_requests(8)
    actual = in_process(sharded_results, settings, requests)
    assert_same(actual, transformers_results(settings, "contrast-wrong", requests))


@pytest.mark.parametrize("method", [once_more("greedy"), "contrast-wrong"])
def test_draws_are_the_transformers_engines_and_differ_from_each_other(method: str) -> None:
    settings = config("random:llama", decoding={"num_samples": 3, "temperature": 0.7, "max_new_tokens": 12})
    requests = make_requests(10)
    actual = in_process(vllm_results, settings, method, requests)
    assert [r.sample for r in actual] == [0, 1, 2] * 10
    assert len({r.tokens for r in actual}) > 20
    assert_same(actual, transformers_results(settings, method, requests))


@pytest.mark.parametrize(
    ("methods", "mask"),
    [
        once_more(("greedy",), 0.1),
        (("contrast-wrong", "contrast-empty"), 0.1),
        once_more(("contrast-wrong",), 0.0),
    ],
)
def test_smollm2_gives_the_transformers_engines_tokens(methods: tuple[str, ...], mask: float) -> None:
    """On the sample's questions; `python -m jobs.bench parity` does the same on 64 of any data.

    Few of them, because both engines take long for so large a model; the world's has hundreds.
    """
    from cotray.bench.parity import decode_all
    from cotray.bench.teacher import teacher_requests

    model, requests = "embedded:smollm2-135m-instruct", teacher_requests("sample", 6)
    expected = in_process(decode_all, "transformers", model, methods, mask, requests)
    assert [len(tokens) for tokens in expected.values()] == [6] * len(methods)
    assert in_process(decode_all, "vllm", model, methods, mask, requests) == expected


@pytest.mark.parametrize("method", [once_more("greedy"), "contrast-wrong"])
def test_both_engines_write_the_same_in_the_world(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "NUM_STEPS", {"grounded": 120, "as it writes": 80})
    world = WorldConfig(num_animals=48, num_abilities=4)
    path = model_path(world.model_name("teacher"), cache=tmp_path)
    settings = config(path, num_demonstrations=0, max_pairs=64, engine_args={"max_model_len": 256})
    pairs = [QAPair.from_row(row) for row in rows(world, dev_fraction=0, test_fraction=0)]
    requests = [request for pair in pairs for request in requests_of(pair, "wrong", Source(0))]
    assert len(requests) == 2 * 48 * 4
    actual = in_process(vllm_results, settings, method, requests)
    assert_same(actual, transformers_results(settings, method, requests))


def under_pressure(settings: TeacherConfig, requests) -> dict[str, Any]:
    """Runs all requests, and checks each accepted token against what vLLM's scheduler says it sampled."""
    from vllm.v1.core.sched.scheduler import Scheduler

    from cotray.teacher.lockstep import Lockstep
    from cotray.teacher.vllm_teacher import VllmTeacher

    sampled: list[set[str]] = [set()]
    update, accept = Scheduler.update_from_output, Lockstep._accept
    num_checked = 0

    def recording_update(self: Any, scheduler_output: Any, runner_output: Any) -> Any:
        rows = zip(runner_output.req_ids, runner_output.sampled_token_ids, strict=True)
        # vLLM appends a random part to the names of requests.
        sampled.append({"-".join(row.split("-")[:2]) for row, tokens in rows if tokens})
        return update(self, scheduler_output, runner_output)

    def checking_accept(self: Any, pair: Any, rows: Any) -> None:
        nonlocal num_checked
        num_checked += 1
        assert set(pair.row_ids) <= sampled[-1], (pair.row_ids, sampled[-1])
        accept(self, pair, rows)

    Scheduler.update_from_output, Lockstep._accept = recording_update, checking_accept  # type: ignore
    teacher = VllmTeacher(settings, method="contrast-wrong", seed=7)
    pairs = teacher.decode(requests)
    limits = teacher.engine.limits
    rationales = teacher.generate(requests[:1])
    teacher.close()
    return {
        "tokens": [pair.decoded.tokens for pair in pairs],
        "errors": [pair.decoded.error for pair in pairs],
        "splits": sum(pair.decoded.splits for pair in pairs),
        "unpaired": sum(pair.unpaired_tokens for pair in pairs),
        "checked": num_checked,
        "limits": limits,
        "after": rationales[0].error,
    }


@pytest.mark.parametrize(
    "pressure",
    [
        once_more({"max_num_batched_tokens": 256, "num_gpu_blocks_override": 150}),
        {"max_num_batched_tokens": 160, "num_gpu_blocks_override": 150, "long_prefill_token_threshold": 64},
    ],
)
def test_nothing_is_lost_or_unpaired_under_pressure(pressure: dict) -> None:
    """Steps smaller than one prompt, a KV cache for three pairs, ragged prompts, 200 pairs."""
    settings = config(
        "random:llama", num_demonstrations=2, record_scores=False, engine_args=pressure, max_pairs=16
    )
    requests = make_requests(200, longest=60)
    result = in_process(under_pressure, settings, requests)
    expected = transformers_tokens(settings, "contrast-wrong", requests)
    assert result["errors"] == [""] * 200
    assert result["tokens"] == expected
    assert result["splits"] > 0
    assert result["unpaired"] == 0
    assert result["checked"] >= sum(map(len, expected))
    assert result["after"] == ""


def test_a_pair_too_long_for_the_model_is_a_row_with_an_error() -> None:
    requests = make_requests(3)
    requests[1] = TeacherRequest(
        "1", "yes_no", "x " * 2000, ("yes", "no"), "yes", target_answer="yes", contrast_answer="no"
    )
    rows = in_process(vllm_results, config("random:llama"), "contrast-wrong", requests)
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert "over-long" in rows[1].error and "of 2048" in rows[1].error
    assert rows[1].rationale == "" and rows[1].tokens == ()


def choice_logprobs_and_refusal(settings: TeacherConfig, pair: QAPair) -> tuple[list[float], str]:
    """The second: what is said of a prompt with a token that the model does not have."""
    from cotray.teacher.vllm_teacher import VllmTeacher

    teacher = VllmTeacher(settings, method="contrast-hardest")
    unknown = Row("x", "x", 0, 1, [10**6], 4, 0.5, 0, 0)
    try:
        logprobs = teacher.choice_logprobs(pair)
        with pytest.raises(Refused) as refused:
            teacher.engine.add(unknown)
        return logprobs, str(refused.value)
    finally:
        teacher.close()


def test_choice_log_probabilities_are_the_transformers_engines_and_a_bad_row_is_refused_alone() -> None:
    from cotray.teacher.transformers_teacher import TransformersTeacher

    pair = QAPair("1", "multiple_choice", "Where is sand?", ("a small boat", "sand", "ice"), "sand")
    settings = config("random:llama", record_scores=False)
    expected = TransformersTeacher(
        settings.model_copy(update={"engine": "transformers"}), method="contrast-hardest"
    ).choice_logprobs(pair)
    found, refusal = in_process(choice_logprobs_and_refusal, settings, pair)
    assert found == pytest.approx(expected, abs=1e-3)
    assert "1000000" in refusal


def test_of_many_tokens_with_a_line_break_vllm_is_told_the_commonest() -> None:
    """2,184 of them, as in the vocabularies of Qwen and Llama 3."""
    from cotray.teacher.vllm_engine import NUM_BREAKS, stop_ids

    stops = StopTokens(frozenset({2, 9000}), dict.fromkeys(range(5000, 2816, -1), ""))
    assert len(stops.text_before_break) == 2184
    assert stop_ids(stops) == [2, *range(2817, 2817 + NUM_BREAKS), 9000]


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"max_model_length": 9}, "did you mean 'max_model_len'"),
        ({"dtype": "float16"}, "set teacher.dtype instead"),
        ({"enable_prefix_caching": False}, "contrastive pairs need True here"),
        ({"speculative_config": {"method": "ngram"}}, "contrastive pairs need None here"),
        ({"data_parallel_size": 2}, "contrastive pairs need 1 here"),
        ({"stream_interval": 8}, "contrastive pairs need 1 here"),
        ({"enable_batch_sharded_sampling": True}, "contrastive pairs need False here"),
    ],
)
def test_wrong_engine_arguments_are_named_before_anything_is_loaded(engine_args: dict, message: str) -> None:
    from cotray.teacher.vllm_engine import check_arguments

    with pytest.raises(ConfigError, match=r"teacher\.engine_args") as caught:
        check_arguments(engine_args)
    assert message in str(caught.value)


def test_arguments_from_the_environment_get_vllms_own_types() -> None:
    """One of its types has a name that is known to type checkers alone; such text stays text."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    written = {
        "max_model_len": "512",
        "enforce_eager": "true",
        "hf_token": "sesame",
        "quantization_config": "x",
    }
    arguments = {name: Reference(value, "${X}") for name, value in written.items()}
    found = typed({**arguments, "seed": 3}, AsyncEngineArgs, key="serving.engine_args")
    assert {name: found[name] for name in ("max_model_len", "enforce_eager", "seed")} == {
        "max_model_len": 512,
        "enforce_eager": True,
        "seed": 3,
    }
    assert found["hf_token"] is arguments["hf_token"]
    assert found["quantization_config"] is arguments["quantization_config"]
