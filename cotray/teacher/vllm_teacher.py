"""The vLLM teacher: prompts in, Rationales out, over one engine that several batches share.

`generate` may be called from several threads at once; their pairs meet in one `Lockstep`, which a thread
of its own advances, so the engine never drains between batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from queue import Empty, SimpleQueue

from cotray.config import TeacherConfig
from cotray.errors import EngineDied
from cotray.models.loading import count_parameters, load_tokenizer
from cotray.models.tokenizers import end_ids
from cotray.prompts.teacher import Demonstrations
from cotray.prompts.teacher_prompts import TeacherPrompts
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.teacher.contrastive import Decoding
from cotray.teacher.lockstep import Lockstep, Pair
from cotray.teacher.rationale_writer import (
    RationaleWriter,
    num_common,
    plausibility_of,
    sample_seeds,
    stop_tokens,
)
from cotray.teacher.vllm_engine import VllmEngine

_Job = tuple[Pair, "Future[Pair]"]


class VllmTeacher:
    """A causal language model that explains given answers; safe for concurrent calls.

    After `EngineDied` it serves nobody any more: its process should exit.
    """

    def __init__(
        self, config: TeacherConfig, *, method: str, seed: int = 0, own: Demonstrations | None = None
    ) -> None:
        self.config = config
        self.seed = seed
        self.num_branches = 1 if method == "greedy" else 2
        self.tokenizer = load_tokenizer(config.model, revision=config.revision)
        self.prompts = TeacherPrompts(config, self.tokenizer, own)
        self.writer = RationaleWriter(
            self.tokenizer, method, config.model, config.record_scores, config.decoding.stop_text
        )
        decoding = config.decoding
        num_parameters = count_parameters(config.model, revision=config.revision)
        self.plausibility = plausibility_of(config, num_parameters)
        stops = stop_tokens(
            self.tokenizer,
            end_ids(self.tokenizer, config.model, revision=config.revision),
            config.decoding,
        )
        self.engine = VllmEngine(
            config,
            stops=stops,
            num_tokens=len(self.tokenizer),
            decoding=Decoding(self.plausibility, decoding.temperature, decoding.temperature_on),
            has_contrast=self.num_branches == 2,
        )
        self.lockstep = Lockstep(self.engine, self.engine.limits, stops)
        self._arrived: SimpleQueue[_Job | Callable[[], None] | None] = SimpleQueue()
        self._death = ""
        self._thread = threading.Thread(target=self._drive, name="cotray-vllm", daemon=True)
        self._thread.start()

    def generate(
        self,
        requests: Sequence[TeacherRequest],
        *,
        weights: Sequence[float] | None = None,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Rationale]:
        """The Rationales of all requests, in their order; one that cannot be made has `error` set.

        `weights` overrides the configured contrast weight per request. Raises EngineDied.
        """
        pairs = self.decode(requests, weights=weights, on_finished=on_finished)
        return self.writer.write_all(requests, [pair.decoded for pair in pairs])

    def decode(
        self,
        requests: Sequence[TeacherRequest],
        *,
        weights: Sequence[float] | None = None,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Pair]:
        """`generate` before its tokens become text: one Pair per request and draw."""
        num_draws = self.config.decoding.num_draws
        weights = weights or [self.config.decoding.weight] * len(requests)
        seeds = sample_seeds(self.seed, requests, num_draws)
        futures: list[Future[Pair]] = []
        for number, request in enumerate(requests):
            prompt = self.prompts.render(request)
            texts = [prompt.grounded, prompt.contrast][: self.num_branches]
            branches = [self.prompts.ids(text) for text in texts]
            for sample in range(num_draws):
                pair = Pair(
                    branches,
                    self.config.decoding.max_new_tokens,
                    weights[number],
                    seeds[number * num_draws + sample],
                )
                futures.append(self._submit(pair))
        for future in as_completed(futures):
            on_finished(len(future.result().decoded.tokens))
        return [future.result() for future in futures]

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        """log p(choice | question) of every choice: what `hardest` ranks wrong answers by."""
        stem, choices = self.prompts.choices(pair)
        rows = [self.prompts.ids(stem + choice) for choice in choices]
        stem_ids = self.prompts.ids(stem)
        start = min(num_common(stem_ids, row) for row in rows)
        result: Future[list[float]] = Future()

        def score() -> None:
            result.set_result([self.engine.prompt_logprobs(row, start) for row in rows])

        self._arrived.put(score)
        return result.result()

    def close(self) -> None:
        """Stop the engine; nothing may be waiting."""
        self._arrived.put(None)
        self._thread.join()
        self.engine.close()

    def _submit(self, pair: Pair) -> Future[Pair]:
        future: Future[Pair] = Future()
        self._arrived.put((pair, future))
        if self._death and not future.done():
            self._fail_arrived()
        return future

    def _drive(self) -> None:
        futures: dict[int, Future[Pair]] = {}
        try:
            while self._receive(futures):
                for pair in self.lockstep.advance():
                    futures.pop(id(pair)).set_result(pair)
        except Exception as problem:
            self._death = f"{type(problem).__name__}: {problem}"
            for future in futures.values():
                future.set_exception(EngineDied(self._death))
            self._fail_arrived()

    def _receive(self, futures: dict[int, Future[Pair]]) -> bool:
        """Take over what has arrived, waiting for something if there is nothing to do; False = close."""
        while True:
            try:
                job = self._arrived.get(block=self.lockstep.is_idle)
            except Empty:
                return True
            if job is None:
                return False
            if callable(job):
                while not self.lockstep.is_idle:
                    for pair in self.lockstep.advance():
                        futures.pop(id(pair)).set_result(pair)
                job()
                continue
            pair, future = job
            futures[id(pair)] = future
            self.lockstep.submit([pair])

    def _fail_arrived(self) -> None:
        while not self._arrived.empty():
            job = self._arrived.get()
            if isinstance(job, tuple) and not job[1].done():
                job[1].set_exception(EngineDied(self._death))
