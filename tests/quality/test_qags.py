"""QAGS against values by hand, with a model whose answers are written down; spaCy where it is installed."""

from __future__ import annotations

import re
import sys

import pytest

from cotray.config.assessing import AssessingConfig
from cotray.errors import ConfigError
from cotray.prompts.qags import answer_prompt, question_prompt
from cotray.quality.answer_candidates import AnswerCandidates
from cotray.quality.assessor import Assessor, OtherFacts
from cotray.quality.qa_model import QAModel
from cotray.quality.qags import Qags, QagsScorer, clean_question, plain, token_f1


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        ("new york", "york", 2 / 3),
        ("", "", 1.0),
        ("york", "", 0.0),
        ("", "york", 0.0),
        ("The New York!", "new  york", 1.0),
        ("a b b", "b b b", 4 / 5),
    ],
)
def test_f1_of_normalised_words(gold: str, predicted: str, expected: float) -> None:
    """The last: "a" is an article, so two of two and two of three words agree."""
    assert token_f1(gold, predicted) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Where does rain  come from? And snow?", "Where does rain come from?"),
        ("Where from?", ""),
        ("It comes from clouds", ""),
    ],
)
def test_a_question_ends_at_its_mark_and_has_three_words(text: str, expected: str) -> None:
    assert clean_question(text) == expected


def test_words_that_begin_like_articles_stay() -> None:
    assert plain("The theory of an ant, a.") == "theory of ant"


class ScriptedModel(QAModel):
    """Two questions per candidate; its answer is the word of the text after the question's last one."""

    def __init__(self) -> None:
        self.num_demonstrations = 0

    def write(self, prompts, *, num_groups, strength, max_new_tokens):
        return [self.reply(prompt)[:num_groups] for prompt in prompts]

    def reply(self, prompt: str) -> list[str]:
        text, line = prompt.removeprefix("Text: ").split("\n")
        words = text.replace(".", "").split()
        if line.startswith("Answer:"):
            answer = line.removeprefix("Answer: ").removesuffix(" Question:")
            before = words[words.index(answer) - 1]
            return [f" What comes after {before}? Yes", " What comes after nothing?"]
        last = re.findall(r"\w+(?=\? Answer:)", line)[0]
        return [f" {words[words.index(last) + 1]}" if last in words[:-1] else " unknown"]


def scorer(*candidates: str, **options) -> QagsScorer:
    def find(text: str, *, most: int) -> list[str]:
        return [c for c in candidates if c in text][:most]

    return QagsScorer(ScriptedModel(), find_candidates=find, questions_per_candidate=2, **options)


def test_score_is_the_mean_f1_over_consistent_questions() -> None:
    """Asked: after rain (falls) and after from (clouds); the source says falls and stone."""
    text, source = "Now rain falls from clouds.", "Here rain falls from stone."
    result = scorer("falls", "clouds").score([text, text, text], [source, text, ""])
    assert result == [Qags(2, 0.5), Qags(2, 1.0), Qags(0, None)]


def test_questions_that_the_text_answers_otherwise_are_left_out() -> None:
    """After the second "from" the model finds the first one's clouds, not "heaven"."""
    one = scorer("clouds", "heaven")
    text = "Rain from clouds from heaven."
    (asked,) = one.questions([text])
    assert asked[:2] == [("What comes after from?", "clouds"), ("What comes after from?", "heaven")]
    assert one.consistent([text], [asked]) == [[("What comes after from?", "clouds")]]


def test_a_text_without_candidates_has_no_score() -> None:
    assert scorer().score(["Rain falls."], ["Rain falls."]) == [Qags()]


def test_no_more_questions_are_kept_than_wanted() -> None:
    text = "Now rain falls from clouds."
    (result,) = scorer("falls", "clouds", max_questions=1).score([text], ["Here rain falls from stone."])
    assert result == Qags(1, 1.0)


def test_prompts_end_where_the_model_goes_on() -> None:
    assert question_prompt("T  t", "A", num_demonstrations=0) == "Text: T t\nAnswer: A Question:"
    assert answer_prompt("T", "Q?", num_demonstrations=0) == "Text: T\nQuestion: Q? Answer:"
    shown = answer_prompt("T", "Q?", num_demonstrations=1)
    assert shown.startswith("Text: ") and shown.endswith(
        "\n\n" + answer_prompt("T", "Q?", num_demonstrations=0)
    )


@pytest.fixture(scope="module")
def candidates() -> AnswerCandidates:
    pytest.importorskip("spacy", reason="spaCy is not installed")
    return AnswerCandidates()


def test_candidates_are_entities_and_noun_phrases_without_pronouns(candidates: AnswerCandidates) -> None:
    text = "Marie Curie was born in Warsaw, and she won two Nobel Prizes."
    found = candidates(text, most=10)
    assert {"Marie Curie", "Warsaw"} <= set(found) and "she" not in found
    assert found == sorted(found, key=text.index) and len(found) == len(set(found))
    assert candidates(text, most=1) == found[:1]


def test_a_phrase_that_comes_again_keeps_its_first_place(candidates: AnswerCandidates) -> None:
    text = "Paris is larger than London, and Berlin is smaller than Paris."
    assert candidates(text, most=10) == ["Paris", "London", "Berlin"]
    assert candidates(text, most=1) == ["Paris"]


def test_without_spacy_no_model_is_loaded_and_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    config = AssessingConfig(measures=("quals", "qags"), model="/no/such/model")
    with pytest.raises(ConfigError, match=r"pip install 'cotray\[qags\]'"):
        Assessor(config, other_facts=OtherFacts([], seed=0))
