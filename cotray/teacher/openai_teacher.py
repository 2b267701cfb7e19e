"""A teacher behind an OpenAI-compatible endpoint: greedy rationales, of right and of other answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cotray.config import TeacherConfig
from cotray.inference.endpoint_model import EndpointModel
from cotray.inference.openai_endpoint import Prompt, Said
from cotray.prompts.teacher import Demonstrations
from cotray.prompts.teacher_chat import TeacherChat, explanation, fields_of
from cotray.prompts.teacher_prompts import TeacherPrompts
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.teacher.rationale_writer import sample_seeds


class OpenAITeacher:
    """Safe for concurrent calls, whose requests share the endpoint's places."""

    def __init__(
        self, config: TeacherConfig, model: EndpointModel, *, seed: int = 0, own: Demonstrations | None = None
    ) -> None:
        self.config, self.model, self.seed = config, model, seed
        self.is_chat = config.prompt == "chat"
        self.chat = TeacherChat(config, own)
        # A completion's prompt is plain text: its tokens are the server's affair.
        self.texts = None if self.is_chat else TeacherPrompts(config, None, own)

    def generate(
        self,
        requests: Sequence[TeacherRequest],
        *,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Rationale]:
        """As of `Teacher`. Raises as `EndpointModel.ask` does."""
        num_draws = self.config.decoding.num_draws
        drawn = [request for request in requests for _ in range(num_draws)]
        seeds = sample_seeds(self.seed, requests, num_draws)
        prompts = [self._prompt(request, seed) for request, seed in zip(drawn, seeds, strict=True)]
        replies = self.model.ask(
            prompts,
            [request.id for request in drawn],
            on_answered=lambda said: on_finished(said.tokens_out),
        )
        return [
            self._rationale(request, said, sample=index % num_draws)
            for index, (request, said) in enumerate(zip(drawn, replies, strict=True))
        ]

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        raise NotImplementedError("an API ranks no answers: methods with contrast are refused before")

    def _prompt(self, request: TeacherRequest, seed: int) -> Prompt:
        decoding = self.config.decoding
        is_drawn = decoding.num_samples > 0
        stop: tuple[str, ...] = ()
        if self.texts is not None:
            content = self.texts.render(request).grounded
            stop = ("\n",) if decoding.stop == "line" else (decoding.stop_text,) if decoding.stop_text else ()
        else:
            # Chat models end by themselves, and some of them begin with a line break.
            content = self.chat.explaining(request)
        return Prompt(
            content,
            decoding.max_new_tokens,
            temperature=decoding.temperature if is_drawn else 0.0,
            seed=seed % 2**31 if is_drawn else None,
            stop=stop,
            more=fields_of(self.config, is_begun=True),
        )

    def _rationale(self, request: TeacherRequest, said: Said, *, sample: int) -> Rationale:
        # Before the cut, because the answer may stand in a line of its own; after it, because it may end one.
        text = explanation(said.text, request.target_answer) if self.is_chat else said.text
        text, stop_reason = self._ended(text, said.finish)
        text = explanation(text, request.target_answer) if self.is_chat else text.strip()
        error = said.error or ("" if text else f"empty rationale: {_why_empty(said)}")
        fields = {
            "method": "greedy",
            "teacher": self.config.model,
            "sample": sample,
            "rationale": "" if error else text,
            "num_tokens": 0 if said.error else said.tokens_out,
            "stop_reason": "" if said.error else stop_reason,
            "error": error,
        }
        return Rationale.from_row(request.to_row() | fields)

    def _ended(self, text: str, finish: str) -> tuple[str, str]:
        """The text up to what ends a rationale, and the name of that."""
        decoding = self.config.decoding
        if decoding.stop == "line" and "\n" in text:
            return text.partition("\n")[0], "greedy_stop"
        if decoding.stop_text and decoding.stop_text in text:
            return text.partition(decoding.stop_text)[0], "text"
        return text, "length" if finish == "length" else "eos"


def _why_empty(said: Said) -> str:
    if said.finish == "length":
        return (
            "the model reached its limit before it wrote any, as those that think do; raise "
            "teacher.decoding.max_new_tokens"
        )
    return f"the reply has no text (finish reason {said.finish or 'not given'}, {len(said.text)} characters)"
