"""The three questions about a rationale (after Wiegreffe et al. 2022), for people and judges.

A judge reads one message and answers in lines such as `new_info: yes`; rendering and parsing
side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cotray.seeds import digest


@dataclass(frozen=True)
class Criterion:
    """One question that is answered by yes or no; `name` is its column and the judge's label."""

    name: str
    title: str
    question: str
    yes: str
    no: str


GRAMMATICALITY = Criterion(
    "grammaticality",
    "Grammaticality",
    "Is the explanation grammatical?",
    "It reads as correct English. A slip in punctuation or capitals does not matter, nor whether it is true.",
    "It breaks off, repeats itself without end, or has errors that a careful writer would not make.",
)
NEW_INFO = Criterion(
    "new_info",
    "New information",
    "Does the explanation say something that is not already in the question and the answer?",
    "It adds a fact, a piece of information or a step of reasoning, whether true or not.",
    "It only repeats or rewords the question and the answer, or says nothing.",
)
SUPPORTS_ANSWER = Criterion(
    "supports_answer",
    "Supports the answer",
    "Is the new information relevant to why the answer is right?",
    "It gives a reason for this answer: somebody who believes it has more cause to accept the answer.",
    "It is beside the point, or speaks for another answer.",
)
CRITERIA = (GRAMMATICALITY, NEW_INFO, SUPPORTS_ANSWER)


@dataclass(frozen=True)
class Rating:
    """What one annotator or judge says of one rationale; `supports_answer` is None where nothing is new."""

    grammaticality: bool
    new_info: bool
    supports_answer: bool | None

    def __post_init__(self) -> None:
        if (self.supports_answer is None) == self.new_info:
            raise ValueError("supports_answer is answered exactly where new_info is yes")


def judge_messages(
    question: str, choices: Sequence[str], answer: str, rationale: str
) -> list[dict[str, str]]:
    """The chat that asks a judge about one rationale: one user message, which every chat template takes."""
    shown = [f"Question: {question}"]
    if choices:
        shown.append(f"Choices: {' / '.join(choices)}")
    shown += [f"Answer: {answer}", f"Explanation: {rationale}"]
    return [{"role": "user", "content": f"{_INSTRUCTIONS}\n\n" + "\n".join(shown) + "\n\nYour three lines:"}]


def parse_judge(text: str) -> Rating | None:
    """The rating in a judge's reply; None where a verdict is missing, unknown or given both ways.

    What follows a label begins with yes or no and never says the other, as the instructions do when a model
    repeats them. What is thought before `</think>` is not the reply.
    """
    verdicts: dict[str, set[str]] = {"g": set(), "n": set(), "s": set()}
    for label, said in _VERDICT.findall(text.rpartition("</think>")[2].lower()):
        starts_well = re.match(r"\W*(yes|no)\b", said)
        verdicts[label[0]] |= set(re.findall(r"\b(yes|no)\b", said)) if starts_well else {"unknown"}
    one_way = {frozenset({"yes"}): True, frozenset({"no"}): False}
    grammatical, new, supports = (one_way.get(frozenset(said)) for said in verdicts.values())
    if grammatical is None or new is None or (new and supports is None):
        return None
    return Rating(grammatical, new, supports if new else None)


_LABEL = r"\b(?:grammaticality|new[_ ]info(?:rmation)?|supports[_ ](?:the[_ ])?answer)\W{0,4}[:=]"
_VERDICT = re.compile(rf"({_LABEL})(.*?)(?={_LABEL}|$)", re.MULTILINE)
_QUESTIONS = "\n".join(
    f"{criterion.name}: {criterion.question}\n  yes: {criterion.yes}\n  no: {criterion.no}"
    for criterion in CRITERIA
)
_INSTRUCTIONS = f"""\
You rate explanations. You see a question, an answer that somebody gave, and an explanation of that answer.
Rate the explanation alone: whether the answer is right does not matter.

{_QUESTIONS}

Reply with exactly three lines and nothing else:
grammaticality: yes or no
new_info: yes or no
supports_answer: yes or no, or n/a where new_info is no"""

JUDGE_PROMPT_VERSION = f"{digest(0, _INSTRUCTIONS, str(judge_messages('Q', ('a', 'b'), 'A', 'E'))):016x}"
"""Changes with anything in the judge's prompt that is not the item."""
