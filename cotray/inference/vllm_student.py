"""A student on vLLM, for serving: requests join and leave the running batch at any token.

For decoder-only models that vLLM knows; the answers are those of `predict.Student`. Its engine runs in a
process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

# Before vllm is imported, here and, by inheritance, in the engine's process.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.models.registry import ModelRegistry
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from cotray.config import ScoringConfig
from cotray.errors import ConfigError, EngineDied
from cotray.inference.likelihood import Context, encode_candidates
from cotray.inference.student_reply import (
    MAX_ANSWER_TOKENS,
    Pieces,
    check_length,
    first_line,
    make_reply,
    match_choice,
)
from cotray.models.loading import device_and_dtype, load_tokenizer
from cotray.models.locations import model_path
from cotray.prompts.student import StudentPrompt
from cotray.records import QAPair, Reply


def knows(model: str) -> bool:
    """Whether vLLM runs this model as a student."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path(model))
    known = set(ModelRegistry.get_supported_archs())
    return not config.is_encoder_decoder and bool(known & set(config.architectures or ()))


class VllmStudent:
    """A trained student in Hugging Face format on a vLLM engine. Needs a running event loop."""

    def __init__(
        self,
        model: str,
        *,
        config: ScoringConfig,
        prompt: StudentPrompt,
        engine_args: dict[str, Any],
        max_rows: int,
    ) -> None:
        self.config, self.prompt = config, prompt
        self.tokenizer = load_tokenizer(model)
        self.engine = _start_engine(model, engine_args, max_rows)
        self.longest = self.engine.model_config.max_model_len
        self.numbers = itertools.count()
        self.eos: Any = self.tokenizer.eos_token_id

    def check(self, pair: QAPair, rationale: str | None) -> None:
        """Raises TooLong for a question that does not fit into the model."""
        check_length(self.tokenizer, self.prompt.source(pair), rationale, self.config, self.longest)

    async def answer(
        self, pair: QAPair, rationale: str | None, show: Callable[[str], None] | None = None
    ) -> Reply:
        """`show` hears the text piece by piece, while it is written. Raises EngineDied."""
        source = self.prompt.source(pair)
        text, ids, pieces, written = None, list[int](), Pieces(), ""
        try:
            if rationale is None:
                async for tokens in self._write(source, self.config.max_new_tokens):
                    ids += tokens
                    if show is not None:
                        show(pieces.upto(self._text(ids)))
                text = self._text(ids)
                rationale, written = self.prompt.parse(text)
            answer = match_choice(written, pair.choices)
            context = Context(
                source,
                self.prompt.prefix(rationale, is_encoder_decoder=False),
                [f" {choice}" for choice in pair.choices],
            )
            logprobs = await self._candidate_logprobs(context)
            forced = ""
            if answer is None and not pair.choices:
                outputs = self._write(source + context.target_prefix, MAX_ANSWER_TOKENS)
                forced = first_line(self._text([token async for tokens in outputs for token in tokens]))
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        reply = make_reply(
            pair,
            text,
            rationale=rationale,
            answer=answer,
            forced=forced,
            logprobs=logprobs,
            num_prompt_tokens=len(self.tokenizer(source).input_ids),
            num_tokens=len(ids),
        )
        if show is not None:
            show(pieces.rest(reply.text))
        return reply

    def check_health(self) -> None:
        """Raises EngineDied."""
        if self.engine.errored:
            raise EngineDied("vLLM's engine process is gone")

    def close(self) -> None:
        self.engine.shutdown()

    def _text(self, ids: list[int]) -> str:
        # vLLM's own detokenizer leaves out half characters at the end, which `predict.Student` shows.
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    async def _write(self, prompt: str, max_new_tokens: int) -> AsyncGenerator[Sequence[int], None]:
        """Greedy tokens after the prompt, up to the end of sequence, as they come."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            # Of all stop tokens a model may name, `predict.Student` knows this one.
            stop_token_ids=[self.eos],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        ids = self.tokenizer(prompt).input_ids
        async for output in self.engine.generate({"prompt_token_ids": ids}, params, self._next_id()):
            yield output.outputs[0].token_ids

    async def _candidate_logprobs(self, context: Context) -> list[float]:
        """As likelihood.candidate_logprobs; vLLM scores every candidate's whole sequence."""
        encoded = encode_candidates(context, self.tokenizer, is_encoder_decoder=False)
        return await asyncio.gather(
            *(self._logprob([*each.source, *each.target], sum(each.is_supervised)) for each in encoded)
        )

    async def _logprob(self, ids: Sequence[int], num_scored: int) -> float:
        """Sum of log p of the last `num_scored` tokens."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt: Any = {"prompt_token_ids": list(ids)}
        total = 0.0
        async for output in self.engine.generate(prompt, params, self._next_id()):
            steps: list[Any] = list(getattr(output, "prompt_logprobs", None) or [])
            scored = zip(ids[-num_scored:], steps[-num_scored:], strict=True)
            total = sum(logprobs[token].logprob for token, logprobs in scored)
        return total

    def _next_id(self) -> str:
        return str(next(self.numbers))


def _start_engine(model: str, engine_args: dict[str, Any], max_rows: int) -> AsyncLLM:
    """Raises ConfigError where an argument is unknown or the engine does not start."""
    device, dtype = device_and_dtype("auto")
    arguments: dict[str, Any] = {
        "model": model_path(model),
        "dtype": str(dtype).removeprefix("torch."),
        "max_num_seqs": max_rows,
        "load_format": "safetensors",
        "generation_config": "vllm",
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if device.type == "cpu":
        # As for the teacher: compiling takes a minute for 7 %.
        arguments |= {"block_size": 32, "kv_cache_memory_bytes": 1 << 30, "enforce_eager": True}
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**(arguments | engine_args)))
    except (ValueError, TypeError, RuntimeError, OSError) as problem:
        reason = " ".join(str(problem).split())[:400]
        raise ConfigError(f"student '{model}': vLLM does not start ({reason})") from problem
