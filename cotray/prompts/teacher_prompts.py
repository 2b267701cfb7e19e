"""How questions are put to a teacher: as a text that goes on, or in its own chat template.

Both are followed by the given answer, "The answer is {answer}.", which the rationale continues; in a chat it
is how the assistant's turn begins. docs/explanation/method.md#teacher-prompts
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError
from cotray.prompts.teacher import (
    Demonstrations,
    TeacherPrompt,
    answer_phrase,
    demonstrations,
    prompt_version,
    question_text,
    render_choices,
    render_request,
)
from cotray.records import QAPair, Task, TeacherRequest
from cotray.seeds import digest

if TYPE_CHECKING:
    from cotray.config import TeacherConfig

THINKING, END_OF_THINKING = "<think>", "</think>"


def teacher_prompt_version(config: TeacherConfig, own: Demonstrations | None) -> str:
    """Changes with anything in the prompts that is neither the question nor the model's chat template."""
    version = prompt_version(config.num_demonstrations, own)
    if config.prompt == "completion" and not config.instructions:
        return version
    parts = [
        config.prompt,
        config.instructions,
        str(sorted(config.template_args.items())),
        config.rationale_in,
    ]
    return f"{digest(0, version, *parts):016x}"


@dataclass
class TeacherPrompts:
    """The prompts of one configuration; `tokenizer` is the teacher's, `own` are the user's demonstrations."""

    config: TeacherConfig
    tokenizer: Any
    own: Demonstrations | None = None
    _shared: dict[Task, str] = field(default_factory=dict)
    _special: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError where the tokenizer cannot put a chat, before any row is made."""
        if self.config.prompt == "chat":
            known = self.tokenizer.added_tokens_decoder.values()
            self._special = tuple(str(token) for token in known if token.special or _is_tag(str(token)))
            self._rendered(_turns("?"))

    def render(self, request: TeacherRequest) -> TeacherPrompt:
        """Both branches; they differ in the answer alone."""
        if self.config.prompt == "completion":
            return render_request(request, **self._of_completion())
        opening = self._opening(request)
        target, contrast = map(self._without_special, (request.target_answer, request.contrast_answer))
        return TeacherPrompt(
            self._shared_opening(request.task, opening), f"{opening} {target}.", f"{opening} {contrast}."
        )

    def choices(self, pair: QAPair) -> tuple[str, list[str]]:
        """The prompt up to the answer, and every choice as its continuation."""
        if self.config.prompt == "completion":
            return render_choices(pair, **self._of_completion())
        return self._opening(pair), [f" {self._without_special(choice)}." for choice in pair.choices]

    def ids(self, text: str) -> list[int]:
        """A chat template writes special tokens itself; a second beginning of text would be a fault.
        Elsewhere what looks like one is text."""
        is_completion = self.config.prompt == "completion"
        return self.tokenizer(
            text, add_special_tokens=is_completion, split_special_tokens=is_completion
        ).input_ids

    def _of_completion(self) -> dict[str, Any]:
        begin = f"{self.config.instructions.strip()}\n\n" if self.config.instructions else ""
        return {"num_demonstrations": self.config.num_demonstrations, "begin": begin, "own": self.own}

    def _opening(self, pair: QAPair) -> str:
        """The chat up to and including "is"."""
        turns = []
        for one in demonstrations(pair.task, self.own)[: self.config.num_demonstrations]:
            told = f"{answer_phrase(pair.task)} {one['answer']}. {one['rationale'].strip()}"
            turns += _turns(question_text(pair.task, one["question"], one["choices"]), told)
        turns += _turns(question_text(pair.task, pair.question, pair.choices))
        return self._placed(self._rendered(turns)) + answer_phrase(pair.task)

    def _rendered(self, turns: Sequence[dict[str, str]]) -> str:
        """The template's text up to where the assistant begins to write."""
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"teacher.model '{self.config.model}': its tokenizer has no chat template; set "
                "teacher.prompt=completion, or name an instruct model"
            )
        instructions = self.config.instructions.strip()
        system = [{"role": "system", "content": instructions}] if instructions else []
        from jinja2 import TemplateError

        try:
            return self._apply([*system, *turns])
        except TemplateError as error:
            if not system:
                raise ConfigError(
                    f"teacher.model '{self.config.model}': its chat template refuses the prompt ({error}); "
                    "set teacher.prompt=completion, or other teacher.template_args"
                ) from None
        # Gemma's template has no system turn; there instructions are the beginning of the first question.
        first = turns[0] | {"content": f"{instructions}\n\n{turns[0]['content']}"}
        return self._apply([first, *turns[1:]])

    def _apply(self, messages: Sequence[dict[str, str]]) -> str:
        told = [one | {"content": self._without_special(one["content"])} for one in messages]
        return self.tokenizer.apply_chat_template(
            told, tokenize=False, add_generation_prompt=True, **self.config.template_args
        )

    def _without_special(self, text: str) -> str:
        """The template's special tokens are read from the same text as what people wrote. A space in theirs
        makes them text: "< |im_end|>"."""
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _placed(self, opening: str) -> str:
        """The opening with its thinking block open or closed, as `rationale_in` says."""
        is_open = opening.rstrip().endswith(THINKING)
        if self.config.rationale_in == "thinking":
            return opening if is_open else f"{opening}{THINKING}\n"
        return f"{opening.rstrip()}\n\n{END_OF_THINKING}\n\n" if is_open else opening

    def _shared_opening(self, task: Task, opening: str) -> str:
        """What all chats of a task begin with: their instructions and demonstrations."""
        if task not in self._shared:
            other = self._opening(QAPair("", task, "?", ("?", "!"), ""))
            self._shared[task] = _common_begin(other, opening)
        return _common_begin(self._shared[task], opening)


def _is_tag(token: str) -> bool:
    """As templates write roles and thinking; some models have them as tokens that are not called special."""
    return len(token) > 2 and token[0] + token[-1] in ("<>", "[]")


def _common_begin(first: str, second: str) -> str:
    return os.path.commonprefix([first, second])  # noqa: RUF071 - character by character is what is wanted


def _turns(question: str, told: str | None = None) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": question}]
    return asked if told is None else [*asked, {"role": "assistant", "content": told}]
