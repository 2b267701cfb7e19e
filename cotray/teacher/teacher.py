"""What every teacher engine offers, and the one place that picks one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cotray.config import TeacherConfig
from cotray.errors import ConfigError
from cotray.prompts.teacher import Demonstrations
from cotray.records import QAPair, Rationale, TeacherRequest


class Teacher(Protocol):
    def generate(
        self, requests: Sequence[TeacherRequest], *, on_finished: Callable[[int], None] = ...
    ) -> list[Rationale]:
        """The Rationales of all requests, in order, `decoding.num_samples` (at least one) for each;
        `on_finished` hears each one's number of tokens."""
        ...

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        """log p(choice | question) for every choice."""
        ...


def build_teacher(
    config: TeacherConfig, *, method: str, seed: int = 0, own: Demonstrations | None = None
) -> Teacher:
    """Load the configured engine. `method` is greedy, contrast-... or human, without "+counterfactual";
    `seed` is for sampling, and `own` are the user's demonstrations."""
    if method == "human":
        from cotray.teacher.human_teacher import HumanTeacher

        return HumanTeacher()
    match config.engine:
        case "transformers":
            from cotray.teacher.encoder_decoder_teacher import transformers_teacher

            return transformers_teacher(config, method=method, seed=seed, own=own)
        case "vllm":
            from cotray.teacher.vllm_version import check_version

            check_version()  # before the parts of vLLM are imported that only these versions have
            from cotray.teacher.vllm_teacher import VllmTeacher

            return VllmTeacher(config, method=method, seed=seed, own=own)
        case "openai":
            raise ConfigError("teacher.engine=openai: a model behind an API cannot be loaded, only asked")
        case "fake":
            from cotray.teacher.fake_teacher import FakeTeacher

            return FakeTeacher(config, method=method, seed=seed)


def process_environment(config: TeacherConfig) -> dict[str, str]:
    """What has to be in the environment before a replica's process starts: for vLLM on CPUs, the OpenMP
    library that it is tuned for and that comes with it (measured: 8 % more tokens/s)."""
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    is_on_cpu = config.engine == "vllm" and all(pool.num_gpus == 0 for pool in config.all_pools)
    return {"LD_PRELOAD": str(openmp)} if is_on_cpu and openmp.is_file() else {}
