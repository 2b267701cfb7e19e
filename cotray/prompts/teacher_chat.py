"""What a model behind a chat endpoint is asked, and how its replies are read.

The given answer is said in the user's turn, in the same words whether it is right or wrong. Where the server
lets a turn be begun, it is also how the model's turn begins, as with engines at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.student import ANSWER_PHRASE, parse_student
from cotray.prompts.teacher import Demonstrations, answer_phrase, demonstrations, question_text
from cotray.records import QAPair, Task, TeacherRequest, normalized
from cotray.seeds import digest

if TYPE_CHECKING:
    from cotray.config import TeacherConfig

Messages = list[dict[str, str]]
END_OF_THINKING = "</think>"
_EXPLAIN = (
    "Explain in one or two sentences why, arguing for this answer alone, whatever you think of it. "
    "Reply with the explanation only, and do not say the answer again."
)
_REASON = f'First explain, then answer. End with "{ANSWER_PHRASE.strip()}" and the answer.'
_FOLLOW = "Answer as this explanation has it, whatever you think of it. Reply with the answer only."


@dataclass(frozen=True)
class TeacherChat:
    """The chats of one configuration; `own` are the user's demonstrations."""

    config: TeacherConfig
    own: Demonstrations | None = None

    def explaining(self, request: TeacherRequest) -> Messages:
        """Asks for a rationale of the target answer."""
        messages = self._instructions()
        for one in self._demonstrations(request.task):
            question = question_text(request.task, one["question"], one["choices"])
            begin = f"{answer_phrase(request.task)} {one['answer']}. " if self._is_begun else ""
            told = f"{begin}{one['rationale'].strip()}"
            messages += _turns(_explain(request.task, question, one["answer"]), told)
        question = question_text(request.task, request.question, request.choices)
        messages += _turns(_explain(request.task, question, request.target_answer))
        if self._is_begun:
            begin = f"{answer_phrase(request.task)} {request.target_answer}."
            messages.append({"role": "assistant", "content": begin})
        return messages

    def reasoning(self, pair: QAPair) -> Messages:
        """Asks for a rationale and then an answer."""
        messages = self._instructions()
        for one in self._demonstrations(pair.task):
            question = question_text(pair.task, one["question"], one["choices"])
            told = f"{one['rationale'].strip()}{ANSWER_PHRASE} {one['answer']}."
            messages += _turns(f"{question}\n\n{_REASON}", told)
        question = question_text(pair.task, pair.question, pair.choices)
        return messages + _turns(f"{question}\n\n{_REASON}")

    def answering(self, pair: QAPair, rationale: str) -> Messages:
        """Asks for the answer that follows from a rationale."""
        messages = self._instructions()
        for one in self._demonstrations(pair.task):
            question = question_text(pair.task, one["question"], one["choices"])
            messages += _turns(_follow(question, one["rationale"].strip()), f"{one['answer']}.")
        question = question_text(pair.task, pair.question, pair.choices)
        return messages + _turns(_follow(question, rationale.strip()))

    @property
    def version(self) -> str:
        """Changes with anything in the chats that is not the question."""
        return f"{digest(0, *(str(messages) for messages in self._probes())):016x}"

    def _probes(self) -> Iterator[Messages]:
        for task in get_args(Task):
            request = TeacherRequest("", task, "Q?", ("a", "b"), "a", target_answer="a")
            yield self.explaining(request)
            yield self.reasoning(request)
            yield self.answering(request, "R.")

    def _demonstrations(self, task: Task) -> Sequence[dict]:
        return demonstrations(task, self.own)[: self.config.num_demonstrations]

    def _instructions(self) -> Messages:
        told = self.config.instructions.strip()
        return [{"role": "system", "content": told}] if told else []

    @property
    def _is_begun(self) -> bool:
        """Whether the model's turn goes on from a beginning, as vLLM, SGLang and the like can do it."""
        return bool(self.config.engine_args.get("continue_final_message"))


def endpoint_prompt_version(config: TeacherConfig, own: Demonstrations | None) -> str:
    """Of the few-shot prompts of a teacher behind an endpoint."""
    if config.prompt == "chat":
        return TeacherChat(config, own).version
    return FewShotPrompt(config.num_demonstrations, own).version


def fields_of(config: TeacherConfig, *, is_begun: bool) -> dict[str, Any]:
    """What a request has beside what cotray sets; `is_begun`: the model's turn may have a beginning."""
    begin = ("continue_final_message", "add_generation_prompt")
    fields = {name: value for name, value in config.engine_args.items() if is_begun or name not in begin}
    if config.prompt == "chat" and config.template_args:
        fields["chat_template_kwargs"] = config.template_args
    if fields.get("continue_final_message"):
        fields["add_generation_prompt"] = False
    return fields


def reply_text(text: str) -> str:
    """A reply without what was thought before it; "" where it ends in the middle of a thought."""
    _, _, after = text.rpartition(END_OF_THINKING)
    return "" if after.lstrip().startswith("<think>") else after.strip()


def explanation(text: str, answer: str) -> str:
    """A reply without the given answer, which chat models like to repeat in front and at the end."""
    text = re.sub(r"^\*{0,2}(?:explanation|rationale):\*{0,2}", "", reply_text(text), flags=re.IGNORECASE)
    text = text.strip("*").strip()
    front = re.match(_SAYING_IT, text, re.IGNORECASE)
    if front and (rest := _after_answer(text[front.end() :], answer)):
        text = rest
    body, last = _last_sentence(text)
    if (found := re.search(_CONCLUDING, last, re.IGNORECASE)) and _has(normalized(last), normalized(answer)):
        text = f"{body}{last[: found.start()]}".strip().rstrip(",;:")
        text += "." if text and text[-1].isalnum() else ""
    return text


def reasoned(text: str) -> tuple[str, str]:
    """(rationale, answer as written) of a reply to `reasoning`, in one line."""
    return parse_student(" ".join(reply_text(text).replace("*", "").split()), tag="")


def named_answer(text: str, pair: QAPair) -> str | None:
    """The choice that a reply names: by its text, its letter, or as the only one that is in it."""
    said = normalized(text).strip(" .*\"'")
    said = said.removeprefix(f"{answer_phrase(pair.task).lower()} ").strip(" .*\"'")
    shown = pair.choices if pair.task == "multiple_choice" else ()
    by_letter = {chr(97 + number): choice for number, choice in enumerate(shown)}
    whole = {normalized(choice).rstrip("."): choice for choice in pair.choices}
    if exact := whole.get(said) or by_letter.get(said):
        return exact
    if (lettered := re.match(r"\(?([a-z])\)(?: |$)", said)) and lettered[1] in by_letter:
        return by_letter[lettered[1]]
    inside = [choice for plain, choice in whole.items() if _has(said, plain)]
    return inside[0] if len(inside) == 1 else None


_SAYING_IT = (
    r"\*{0,2}(?:(?:the|my) )?(?:correct |right |given )?(?:answer|statement|relation)\*{0,2}(?: is|:)\*{0,2} "
)
_CONCLUDING = (
    r"(?:^|[,;] )(?:and )?(?:so|thus|therefore|hence|consequently|this is why|that is why)?,? ?"
    r"(?:the )?(?:correct |right |final )?(?:answer|statement|relation)(?: is|:)"
)


def _after_answer(text: str, answer: str) -> str:
    """What follows the answer in a text that begins with it; "" where it does not."""
    plain = text.lstrip("*\"' (")
    if not plain.lower().startswith(answer.lower()):
        return ""
    rest = plain[len(answer) :]
    if rest[:1].isalnum():
        return ""
    rest = rest.lstrip(".*\"',:;)- \n\u2013\u2014")
    linked = re.match(r"(?:because|since|as) ", rest, re.IGNORECASE)
    rest = rest[linked.end() :] if linked else rest
    return rest[:1].upper() + rest[1:]


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _last_sentence(text: str) -> tuple[str, str]:
    """A text up to its last sentence, and that."""
    inner = text.rstrip(".!* \n")
    start = max(inner.rfind(mark) + len(mark) if mark in inner else 0 for mark in (". ", "! ", "? ", "\n"))
    return text[:start], text[start:]


def _explain(task: Task, question: str, answer: str) -> str:
    return f"{question}\n\n{answer_phrase(task)} {answer}. {_EXPLAIN}"


def _follow(question: str, rationale: str) -> str:
    return f"{question}\n\nExplanation: {rationale}\n\n{_FOLLOW}"


def _turns(asked: str, told: str | None = None) -> Messages:
    question = {"role": "user", "content": asked}
    return [question] if told is None else [question, {"role": "assistant", "content": told}]
