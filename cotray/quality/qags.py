"""QAGS (Wang et al. 2020): do a text and its source give the same answers to its questions?

Answer candidates of the text, questions for them, only those that the text itself answers as expected, then
the answers from the source against the answers from the text, by token F1 (docs/explanation/method.md#qags).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cotray.prompts.qags import answer_prompt, question_prompt
from cotray.quality.qa_model import QAModel

MAX_QUESTION_TOKENS = 24
MAX_ANSWER_TOKENS = 12


@dataclass(frozen=True)
class Qags:
    """`qags`: mean token F1 over the questions; None without any, or without a source."""

    num_questions: int = 0
    qags: float | None = None


class QagsScorer:
    """Unlike the original, it neither draws candidates nor repeats questions where there are too few."""

    def __init__(
        self,
        model: QAModel,
        *,
        find_candidates: Callable[..., list[str]],
        num_candidates: int = 10,
        questions_per_candidate: int = 10,
        max_questions: int = 20,
        diversity: float = 0.5,
    ) -> None:
        self.model, self.find_candidates = model, find_candidates
        self.num_candidates, self.max_questions = num_candidates, max_questions
        self.questions_per_candidate, self.diversity = questions_per_candidate, diversity

    def score(self, texts: Sequence[str], sources: Sequence[str]) -> list[Qags]:
        """Of each text against its source; "" for no source."""
        return self.compare(self.consistent(texts, self.questions(texts)), sources)

    def compare(self, kept: Sequence[Sequence[tuple[str, str]]], sources: Sequence[str]) -> list[Qags]:
        """Of every text's questions and answers, against the answers that its source gives."""
        flat = [(i, question, answer) for i, pairs in enumerate(kept) for question, answer in pairs]
        in_source = self.answers([(sources[i], question) for i, question, _ in flat if sources[i]])
        scores: list[list[float]] = [[] for _ in kept]
        for (i, _, answer), other in zip([f for f in flat if sources[f[0]]], in_source, strict=True):
            scores[i].append(token_f1(answer, other))
        return [Qags(len(own), sum(own) / len(own) if own else None) for own in scores]

    def questions(self, texts: Sequence[str]) -> list[list[tuple[str, str]]]:
        """(question, expected answer) about each text: every candidate's first question, then the second."""
        candidates = [self.find_candidates(text, most=self.num_candidates) for text in texts]
        flat = [(i, answer) for i, own in enumerate(candidates) for answer in own]
        written = self.model.write(
            [
                question_prompt(texts[i], answer, num_demonstrations=self.model.num_demonstrations)
                for i, answer in flat
            ],
            num_groups=self.questions_per_candidate,
            strength=self.diversity,
            max_new_tokens=MAX_QUESTION_TOKENS,
        )
        asked: list[dict[tuple[str, str], None]] = [{} for _ in texts]
        for turn in range(self.questions_per_candidate):
            for (i, answer), group in zip(flat, written, strict=True):
                if question := clean_question(group[turn]):
                    asked[i].setdefault((question, answer))
        return [list(pairs) for pairs in asked]

    def consistent(
        self, texts: Sequence[str], asked: Sequence[Sequence[tuple[str, str]]]
    ) -> list[list[tuple[str, str]]]:
        """(question, answer from the text), where that is the expected one; at most `max_questions`."""
        flat = [(i, question, answer) for i, pairs in enumerate(asked) for question, answer in pairs]
        predicted = self.answers([(texts[i], question) for i, question, _ in flat])
        kept: list[list[tuple[str, str]]] = [[] for _ in texts]
        for (i, question, expected), answer in zip(flat, predicted, strict=True):
            if plain(answer) == plain(expected) and len(kept[i]) < self.max_questions:
                kept[i].append((question, answer))
        return kept

    def answers(self, asked: Sequence[tuple[str, str]]) -> list[str]:
        """To each (text, question)."""
        prompts = [
            answer_prompt(text, question, num_demonstrations=self.model.num_demonstrations)
            for text, question in asked
        ]
        written = self.model.write(prompts, num_groups=1, strength=0.0, max_new_tokens=MAX_ANSWER_TOKENS)
        return [group[0].strip() for group in written]


def clean_question(text: str) -> str:
    """Up to the first question mark; "" without one, or with fewer than three words."""
    question, mark, _ = " ".join(text.split()).partition("?")
    return question + mark if mark and len(question.split()) >= 3 else ""


def token_f1(gold: str, predicted: str) -> float:
    """Of the normalised words, as SQuAD counts them; two empty answers agree."""
    first, second = plain(gold).split(), plain(predicted).split()
    if not first or not second:
        return float(first == second)
    num_common = sum((Counter(first) & Counter(second)).values())
    return 2 * num_common / (len(first) + len(second))


def plain(answer: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    text = answer.casefold().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
