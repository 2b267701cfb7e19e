"""A student on vLLM, for serving: requests join and leave the running batch at any token.

For decoder-only models that vLLM knows; the answers are those of `predict.Student`. Its engine runs in a
process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

# Before vllm is imported, here and, by inheritance, in the engine's process.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMError
from vllm.inputs import tokens_input
from vllm.model_executor.models.registry import ModelRegistry
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from cotray.config import ScoringConfig
from cotray.config.references import hidden
from cotray.errors import ConfigError, EngineDied
from cotray.inference.decoding import GREEDY, Decoding, Step
from cotray.inference.engine_arguments import typed
from cotray.inference.likelihood import Context, encode_candidates
from cotray.inference.student_reply import (
    MAX_ANSWER_TOKENS,
    Pieces,
    Written,
    check_length,
    make_reply,
    match_answer,
    read_tokens,
)
from cotray.inference.token_choice import stops
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
        seed: int,
        engine_args: dict[str, Any],
        max_rows: int,
    ) -> None:
        """`seed`: of draws whose request names none."""
        self.config, self.prompt, self.seed = config, prompt, seed
        self.tokenizer = load_tokenizer(model)
        self.engine = _start_engine(model, engine_args, max_rows)
        self.longest = self.engine.model_config.max_model_len
        self.numbers = itertools.count()
        self.eos: Any = self.tokenizer.eos_token_id

    def check(self, pair: QAPair, rationale: str | None) -> None:
        """Raises TooLong for a question that does not fit into the model."""
        check_length(self.tokenizer, self.prompt.source(pair), rationale, self.config, self.longest)

    async def answer(
        self,
        pair: QAPair,
        rationale: str | None,
        decoding: Decoding = GREEDY,
        show: Callable[[str], None] | None = None,
    ) -> Reply:
        """`show` hears the text piece by piece, while it is written. Raises EngineDied."""
        source, pieces = self.prompt.source(pair), Pieces(decoding)
        own = forced = None
        answer = ""
        try:
            if rationale is None:
                own = await self._write_as(source, decoding, show, pieces)
                rationale, answer = self.prompt.parse(own.text)
            matched = match_answer(answer, pair)
            context = Context(
                source,
                self.prompt.prefix(rationale, is_encoder_decoder=False),
                [f" {choice}" for choice in pair.choices],
            )
            logprobs = await self._candidate_logprobs(context)
            if matched is None and not pair.choices:
                params = self._params(GREEDY, MAX_ANSWER_TOKENS, source)
                outputs = self._write(source + context.target_prefix, params)
                ids = [token async for tokens, _ in outputs for token in tokens]
                forced = read_tokens(self.tokenizer, ids, GREEDY, limit=MAX_ANSWER_TOKENS)
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        reply = make_reply(
            pair,
            own,
            rationale=rationale,
            answer=matched,
            forced=forced,
            logprobs=logprobs,
            num_prompt_tokens=len(self.tokenizer(source).input_ids),
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

    async def _write_as(
        self, source: str, decoding: Decoding, show: Callable[[str], None] | None, pieces: Pieces
    ) -> Written:
        """What the decoding makes of the prompt, shown while it is written."""
        limit, ids, steps = self.config.max_new_tokens, list[int](), list[Step]()
        params = self._params(decoding, decoding.most_tokens(limit), source)
        async with aclosing(self._write(source, params)) as outputs:
            async for tokens, scored in outputs:
                ids += tokens
                steps += scored
                if show is not None:
                    show(pieces.upto(self._text(ids)))
                if decoding.stop and stops(self.tokenizer, decoding, ids):
                    break
        return read_tokens(self.tokenizer, ids, decoding, limit=limit, steps=steps)

    def _text(self, ids: list[int]) -> str:
        # vLLM's own detokenizer leaves out half characters at the end, which `predict.Student` shows.
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _params(self, decoding: Decoding, max_tokens: int, source: str) -> SamplingParams:
        return SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=decoding.seed_of(source, run_seed=self.seed) if decoding.temperature > 0 else None,
            logprobs=decoding.num_logprobs,
            max_tokens=max_tokens,
            # Of all stop tokens a model may name, `predict.Student` knows this one.
            stop_token_ids=[self.eos],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def _write(
        self, prompt: str, params: SamplingParams
    ) -> AsyncGenerator[tuple[Sequence[int], list[Step]], None]:
        """Tokens after the prompt, up to the end of sequence, as they come, with their log-probabilities."""
        ids = self.tokenizer(prompt).input_ids
        async for output in self.engine.generate(tokens_input(ids), params, self._next_id()):
            made: Any = output.outputs[0]
            yield made.token_ids, _steps(made.token_ids, made.logprobs or [], params.logprobs or 0)

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
        prompt = tokens_input(list(ids))
        total = 0.0
        async for output in self.engine.generate(prompt, params, self._next_id()):
            steps: list[Any] = list(getattr(output, "prompt_logprobs", None) or [])
            scored = zip(ids[-num_scored:], steps[-num_scored:], strict=True)
            total = sum(logprobs[token].logprob for token, logprobs in scored)
        return total

    def _next_id(self) -> str:
        return str(next(self.numbers))


def _steps(ids: Sequence[int], scored: Sequence[Any], num_likeliest: int) -> list[Step]:
    """vLLM gives the likeliest tokens with their ranks, and the written one among them or besides."""
    steps = list[Step]()
    for id, of_token in zip(ids, scored, strict=False):
        ranked = sorted((one.rank, other, one.logprob) for other, one in of_token.items())
        steps.append(
            Step(of_token[id].logprob, [(other, value) for _, other, value in ranked][:num_likeliest])
        )
    return steps


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
    arguments |= typed(engine_args, AsyncEngineArgs, key="serving.engine_args")
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except (ValueError, TypeError, RuntimeError, OSError, VLLMError) as problem:
        reason = " ".join(hidden(str(problem)).split())[:400]
        raise ConfigError(f"student '{model}': vLLM does not start ({reason})") from problem
