"""The vLLM teacher on vLLM's V2 model runner: its own scheduler, sampler and kernels, on a CPU."""

from typing import Any

import pytest
from vllm_runners import begin_steps_early, with_v2_runner

from cotray.config import TeacherConfig
from cotray.config.teacher import DecodingConfig
from cotray.records import Rationale, TeacherRequest

pytestmark = pytest.mark.vllm

REQUESTS = [
    TeacherRequest(
        str(index),
        "yes_no",
        "Would " + "a cat that eats blue rivers " * (index % 4) + f"run {index} houses?",
        ("yes", "no"),
        "yes",
        target_answer="yes",
        contrast_answer="no",
    )
    for index in range(8)
]
SCORES = ("grounded_logprobs", "contrast_logprobs", "greedy_grounded_logprobs", "greedy_contrast_logprobs")
ENGINE = {"max_model_len": 2048, "kv_cache_memory_bytes": 256 << 20}


def settings(engine_args: dict[str, Any], *, record_scores: bool, **decoding: Any) -> TeacherConfig:
    return TeacherConfig(
        engine="vllm",
        model="random:llama",
        dtype="float32",
        max_pairs=4,
        num_demonstrations=1,
        record_scores=record_scores,
        engine_args=ENGINE | engine_args,
        decoding=DecodingConfig(**{"max_new_tokens": 10, "plausibility": 0.0} | decoding),
    )


CASES = {
    "scores": settings({}, record_scores=True),
    "tokens alone, over the mask": settings({}, record_scores=False, plausibility=0.1),
    "draws": settings({}, record_scores=True, num_samples=2, temperature=0.7),
    # Long prompts do not fit into one step, so that their rows part.
    "prompts in chunks": settings({"max_num_batched_tokens": 64}, record_scores=True),
    "steps that begin early": settings({"max_num_batched_tokens": 64}, record_scores=True),
}


def by_vllm(cases: dict[str, TeacherConfig]) -> dict[str, tuple[str, str, list[Rationale]]]:
    """Of every case, the scheduler and the processor that vLLM used, and what the teacher wrote."""
    from cotray.teacher.vllm_teacher import VllmTeacher

    results = dict[str, tuple[str, str, list[Rationale]]]()
    for name, config in cases.items():
        if name == "steps that begin early":
            begin_steps_early()
        teacher = VllmTeacher(config, method="contrast-wrong", seed=7)
        client: Any = teacher.engine._engine.engine_core
        core = client.engine_core
        runner = core.model_executor.driver_worker.worker.model_runner
        processors = [type(processor).__name__ for processor in runner.sampler.logits_processors]
        results[name] = type(core.scheduler).__name__, processors[-1], teacher.generate(REQUESTS)
        teacher.close()
    return results


def by_transformers(config: TeacherConfig) -> list[Rationale]:
    from cotray.teacher.transformers_teacher import TransformersTeacher

    settings = config.model_copy(update={"engine": "transformers", "engine_args": {}})
    return TransformersTeacher(settings, method="contrast-wrong", seed=7).generate(REQUESTS)


def test_the_v2_runner_writes_the_transformers_engines_tokens_and_scores() -> None:
    written = with_v2_runner(by_vllm, CASES)
    for name, config in CASES.items():
        scheduler, processor, actual = written[name]
        is_early = name == "steps that begin early"
        assert (scheduler, processor) == ("AsyncScheduler" if is_early else "Scheduler", "PairedSlots")
        expected = by_transformers(config)
        for a, e in zip(actual, expected, strict=True):
            assert (a.id, a.sample, a.tokens, a.stop_reason) == (e.id, e.sample, e.tokens, e.stop_reason), (
                name
            )
            assert a.error == ""
            for score in SCORES:
                assert getattr(a, score) == pytest.approx(getattr(e, score), abs=1e-3), (name, a.id)
        if config.record_scores:
            assert any(row.tokens != row.greedy_tokens for row in expected), "contrast must change something"
    for name in ("prompts in chunks", "steps that begin early"):
        assert sum(row.splits for row in written[name][-1]) > 0
