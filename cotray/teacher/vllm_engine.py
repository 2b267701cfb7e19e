"""The vLLM teacher: contrastive decoding inside an unmodified vLLM.

Each draw becomes two engine requests, grounded and contrast. A logits processor (vllm_processors.py) sees
the logits of both in one step, chooses the pair's token, and leaves both rows no other choice; vLLM's own
greedy sampler then emits it twice. Which tokens count is decided by `Lockstep` on this side.

docs/explanation/lockstep.md says what of vLLM it relies on, and why no token comes from an unpaired step.
"""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

# Set before vllm is imported, here and, by inheritance, in the engine's processes.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine

from cotray.config import TeacherConfig
from cotray.config.references import hidden
from cotray.errors import ConfigError, EngineDied
from cotray.inference.engine_arguments import typed
from cotray.models.loading import device_and_dtype
from cotray.models.locations import model_path
from cotray.teacher.contrastive import Decoding, StopTokens
from cotray.teacher.coupling import CouplingSettings, read_evidence
from cotray.teacher.lockstep import Emission, Limits, Refused, Row
from cotray.teacher.vllm_processors import NAME, processor_of

MAX_TOKENS_PER_STEP = 8192
"""Of prompts, on a GPU."""
NUM_BREAKS = 8
"""Tokens with a line break that vLLM stops at itself. It goes through their list for every row and step, and
large vocabularies have two thousand of them; at the others Lockstep takes the row back."""
_SET_BY_COTRAY = {
    "logprobs_mode": "teacher.record_scores",
    "model": "teacher.model",
    "tokenizer": "teacher.model",
    "revision": "teacher.revision",
    "dtype": "teacher.dtype",
    "max_num_seqs": "teacher.max_pairs",
}
_NEEDED = {
    "enable_prefix_caching": True,
    "logits_processors": None,
    "speculative_config": None,
    "pipeline_parallel_size": 1,
    "additional_config": None,
    "skip_tokenizer_init": False,
    "generation_config": "vllm",
    # Both rows of a pair have to meet in one process and one batch, and each step has to be told.
    "data_parallel_size": 1,
    "enable_batch_sharded_sampling": False,
    "stream_interval": 1,
}


class VllmEngine:
    """One vLLM engine as `Lockstep` sees it: rows in, emissions of one step out."""

    def __init__(
        self,
        config: TeacherConfig,
        *,
        stops: StopTokens,
        num_tokens: int,
        decoding: Decoding,
        has_contrast: bool,
    ) -> None:
        """`num_tokens`: of the tokenizer; a model may have more places, which are never chosen."""
        if not stops.eos or (config.decoding.stop == "line" and not stops.text_before_break):
            raise ConfigError(
                f"teacher.model '{config.model}': engine vllm needs a tokenizer with an end-of-sequence "
                "token and a token for the line break"
            )
        self.record_scores = config.record_scores
        # A row of a method without contrast needs the processor only where vLLM's argmax is not enough.
        self._is_processed = has_contrast or config.record_scores or config.decoding.num_samples > 0
        self._stop_ids = stop_ids(stops)
        settings = CouplingSettings(
            eos=tuple(sorted(stops.eos)),
            breaks=tuple(sorted(stops.text_before_break)),
            decoding=decoding,
            is_sampling=config.decoding.num_samples > 0,
            record_scores=config.record_scores,
            num_tokens=num_tokens,
        )
        self._engine = _start_engine(config, settings)
        self._is_closed = threading.Event()
        threading.Thread(target=self._watch, name="cotray-vllm-watch", daemon=True).start()
        vllm_config = self._engine.vllm_config
        self._is_processed |= vllm_config.model_config.get_vocab_size() > num_tokens
        self.limits = Limits(
            max_rows=vllm_config.scheduler_config.max_num_seqs,
            max_tokens_per_step=vllm_config.scheduler_config.max_num_batched_tokens,
            max_length=vllm_config.model_config.max_model_len,
            num_blocks=(vllm_config.cache_config.num_gpu_blocks or 0) - 1,  # vLLM keeps one for padding
            block_size=vllm_config.cache_config.block_size,
        )

    def pause(self) -> None:
        self._engine.sleep(level=0, mode="keep")

    def resume(self) -> None:
        self._engine.wake_up(tags=["scheduling"])

    def add(self, row: Row) -> None:
        """Raises Refused with vLLM's reason."""
        extra = {
            "pair": row.pair,
            "branch": row.branch,
            "num_branches": row.num_branches,
            "weight": row.weight,
            "seed": row.seed,
            "position": row.position,
        }
        params = SamplingParams(
            temperature=0.0,
            max_tokens=row.max_new_tokens,
            stop_token_ids=self._stop_ids,
            logprobs=2 if self.record_scores else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={NAME: extra} if self._is_processed else None,
        )
        try:
            self._engine.add_request(row.row_id, tokens_input(row.prompt), params)
        except EngineDeadError as problem:
            raise EngineDied(str(problem)) from problem
        except (ValueError, VLLMClientError) as problem:
            raise Refused(" ".join(str(problem).split())[:300]) from problem

    def abort(self, row_ids: Sequence[str]) -> None:
        if row_ids:
            self._engine.abort_request(list(row_ids))

    def step(self) -> list[Emission]:
        """What all rows emitted in one engine step; raises EngineDied."""
        try:
            outputs = self._engine.step()
        except EngineDeadError as problem:
            raise EngineDied(str(problem)) from problem
        return [self._emission(output) for output in outputs]

    def forget_prefixes(self) -> None:
        """Empty the prefix cache; for measurements."""
        self._engine.reset_prefix_cache()

    def decode_plainly(self, prompts: Sequence[list[int]], lengths: Sequence[int]) -> None:
        """Greedy decoding of exactly so many tokens after each prompt: the limit of the benchmark."""
        for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            params = SamplingParams(
                temperature=0.0,
                max_tokens=length,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            self._engine.add_request(f"plain-{number}", tokens_input(prompt), params)
        while self._engine.has_unfinished_requests():
            self._engine.step()

    def prompt_logprobs(self, prompt: list[int], start: int) -> float:
        """Sum of log p of the prompt's tokens from `start` on. Only while no other row is in the engine, and
        not where scores are recorded, because then vLLM reports logits."""
        assert not self.record_scores
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        self._engine.add_request("prompt", tokens_input(prompt), params)
        while True:
            for output in self._engine.step():
                if output.finished:
                    steps: list[Any] = list(getattr(output, "prompt_logprobs", None) or [])
                    return sum(
                        logprobs[token].logprob
                        for token, logprobs in zip(prompt[start:], steps[start:], strict=True)
                    )

    def close(self) -> None:
        self._is_closed.set()
        self._engine.engine_core.shutdown()

    def _watch(self) -> None:
        """vLLM notes that its engine process died, but does not wake who waits for it: `step`, `pause`."""
        client = self._engine.engine_core
        resources = getattr(client, "resources", None)  # an engine inside this process has none
        while resources is not None and not self._is_closed.wait(0.5):
            if resources.engine_dead:
                client.outputs_queue.put_nowait(EngineDeadError())  # type: ignore[attr-defined]
                for future in list(client.utility_results.values()):  # type: ignore[attr-defined]
                    if not future.done():
                        future.set_exception(EngineDeadError())

    def _emission(self, output: Any) -> Emission:
        completion = output.outputs[0]
        evidence = None
        if self.record_scores and completion.logprobs:
            top = {token: entry.logprob for token, entry in completion.logprobs[-1].items()}
            evidence = read_evidence(completion.token_ids[-1], top)
        is_failed = completion.finish_reason in ("abort", "error")
        error = str(completion.stop_reason or completion.finish_reason) if is_failed else ""
        return Emission(output.request_id, list(completion.token_ids), output.finished, evidence, error)


def stop_ids(stops: StopTokens) -> list[int]:
    """Where vLLM ends a row: at the ends of sequences, and at the breaks with the lowest ids, which are the
    commonest, because vocabularies are numbered in the order in which their tokens were merged."""
    return sorted(stops.eos.union(sorted(stops.text_before_break)[:NUM_BREAKS]))


def _start_engine(config: TeacherConfig, settings: CouplingSettings) -> LLMEngine:
    """Raises ConfigError where an argument is unknown or the engine does not start."""
    check_arguments(config.engine_args)
    device, dtype = device_and_dtype(config.dtype)
    path = model_path(config.model)
    arguments: dict[str, Any] = {
        "model": path,
        "tokenizer": path,
        "revision": config.revision,
        "dtype": str(dtype).removeprefix("torch."),
        "max_num_seqs": config.max_pairs * 2,
        "disable_log_stats": True,
        **_NEEDED,
        # Evidence travels in the rows' own logits (coupling.write_evidence). Without it, only
        # prompt_logprobs asks for log-probabilities.
        "logprobs_mode": "processed_logits" if config.record_scores else "raw_logprobs",
        "additional_config": {NAME: asdict(settings)},
    }
    if device.type == "cpu":
        # A process of its own would compete with this one for the cores (measured: 35 % fewer tokens/s);
        # compiling takes a minute for 7 %.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        arguments |= {"block_size": 32, "kv_cache_memory_bytes": 2 << 30, "enforce_eager": True}
    else:
        # vLLM would take 2,048 for an engine that it thinks is not a server.
        arguments["max_num_batched_tokens"] = MAX_TOKENS_PER_STEP
    arguments |= typed(config.engine_args, EngineArgs, key="teacher.engine_args")
    try:
        vllm_config = EngineArgs(**arguments).create_engine_config()
        vllm_config.model_config.logits_processors = [processor_of(vllm_config)]
        return LLMEngine.from_vllm_config(vllm_config, disable_log_stats=True)
    except (ValueError, TypeError, RuntimeError, OSError, VLLMError) as problem:
        reason = " ".join(hidden(str(problem)).split())[:400]
        raise ConfigError(f"teacher.model '{config.model}': vLLM does not start ({reason})") from problem


def check_arguments(engine_args: dict[str, Any]) -> None:
    known = sorted(field.name for field in fields(EngineArgs))
    for name, value in engine_args.items():
        if name in _SET_BY_COTRAY:
            raise ConfigError(f"teacher.engine_args.{name}: set {_SET_BY_COTRAY[name]} instead")
        if name in _NEEDED and value != _NEEDED[name]:
            raise ConfigError(f"teacher.engine_args.{name}: contrastive pairs need {_NEEDED[name]!r} here")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else "; see vllm.EngineArgs"
            raise ConfigError(f"teacher.engine_args: vLLM has no argument '{name}'{hint}")
