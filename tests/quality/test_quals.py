"""QUALS against the written-out vectors, plain forward passes and a scorer made by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch

from cotray.inference.diverse_beam_search import choose_diverse
from cotray.prompts.qa_pairs import (
    MOST_DEMONSTRATIONS,
    QuestionAnswer,
    demonstrations,
    pair_prompt,
    pair_target,
    parse_pair,
)
from cotray.quality.pair_filter import has_words, select_pairs
from cotray.quality.qa_model import QAModel
from cotray.quality.quals import Quals, QualsScorer, quals, source_text, supporting_facts
from cotray.records import QAPair, Rationale

MODELS = ("random:llama", "random:t5", "random:qwen2")
TEXTS = [
    "Ice is frozen water.",
    "A penguin is a bird that cannot fly, because its wings are flippers made for swimming.",
    "No.",
    "Rome is in Italy. Italy is in Europe.",
]
PAIRS = [
    (QuestionAnswer("What is ice?", "frozen water"),),
    (QuestionAnswer("Why?", "flippers"), QuestionAnswer("What is a penguin, then?", "a bird")),
    (),
    tuple(QuestionAnswer(f"Question {i}?", "x" * i) for i in range(1, 40)),
]

SUMMARY = [[-0.2, -0.1, -0.3, -0.1, -0.05, -0.05], [-0.4, -0.2, -0.2, -0.1, -0.1]]
SOURCE = [[-0.3, -0.2, -0.4, -0.1, -0.15, -0.05], [-1.0, -0.5, -0.4, -3.6, -0.5]]


def test_tokens_are_averaged_within_a_pair_before_pairs_are() -> None:
    assert quals(SOURCE[:1], SUMMARY[:1]) == pytest.approx(-0.0667, abs=1e-4)
    assert quals(SOURCE[1:], SUMMARY[1:]) == pytest.approx(-1.0, abs=1e-4)
    assert quals(SOURCE, SUMMARY) == pytest.approx(-0.5333, abs=1e-4)


def test_without_pairs_there_is_no_score() -> None:
    assert quals([], []) is None


def test_scores_with_the_search_penalty_would_flatter_the_pair() -> None:
    penalized = [p - 0.5 * n for p, n in zip(SUMMARY[1], [3, 1, 0, 0, 2], strict=True)]
    assert sum(penalized) / 5 == pytest.approx(-0.8, abs=1e-4)
    assert quals(SOURCE[1:], [penalized]) == pytest.approx(-0.4, abs=1e-4)


def test_later_groups_pay_for_each_earlier_group_that_took_the_token() -> None:
    """Group 1: token 0 costs .5 (-.1 -> -.6), so 1 at -.5; group 2: both -.6 and -1.0; token 2 at -.7."""
    logprobs = torch.tensor([-0.1, -0.5, -0.7]).expand(1, 4, 3)
    is_open = torch.ones(1, 4, dtype=torch.bool)
    assert choose_diverse(logprobs, is_open, strength=0.5).tolist() == [[0, 1, 0, 2]]
    assert choose_diverse(logprobs, is_open, strength=0.0).tolist() == [[0, 0, 0, 0]]


def test_a_group_that_has_ended_costs_the_others_nothing() -> None:
    logprobs = torch.tensor([-0.1, -0.5, -0.7]).expand(1, 2, 3)
    is_open = torch.tensor([[False, True]])
    assert choose_diverse(logprobs, is_open, strength=0.5).tolist() == [[0, 0]]


def next_logprobs(model, row: Sequence[int], after: Sequence[int]) -> torch.Tensor:
    """One unpadded forward pass without a cache."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            decoder = torch.tensor([[model.config.decoder_start_token_id, *after]])
            logits = model(input_ids=torch.tensor([row]), decoder_input_ids=decoder).logits
        else:
            logits = model(torch.tensor([[*row, *after]])).logits
    return logits[0].log_softmax(-1)


def naive_groups(model, row: Sequence[int], *, num_groups: int, strength: float, steps: int, ends_at):
    """Diverse decoding of one prompt, token by token and group by group."""
    written: list[list[int]] = [[] for _ in range(num_groups)]
    is_open = [True] * num_groups
    for _ in range(steps):
        taken: list[int] = []
        for group in range(num_groups):
            if not is_open[group]:
                continue
            scores = next_logprobs(model, row, written[group])[-1].clone()
            for token in taken:
                scores[token] -= strength
            token = int(scores.argmax())
            taken.append(token)
            written[group].append(token)
        for group in range(num_groups):
            if is_open[group] and ends_at(written[group][-1]):
                written[group].pop()
                is_open[group] = False
    return written


@pytest.mark.parametrize("name", MODELS)
def test_texts_of_a_batch_equal_naive_decoding_of_one_prompt_at_a_time(name: str) -> None:
    qa = QAModel(name, num_demonstrations=2)
    together = qa.write_pairs(TEXTS, num_groups=4, strength=0.5, max_new_tokens=6)
    for text, group in zip(TEXTS, together, strict=True):
        row = qa.tokenizer(pair_prompt(text, num_demonstrations=2)).input_ids
        expected = naive_groups(qa.model, row, num_groups=4, strength=0.5, steps=6, ends_at=qa._ends_at)
        assert group == qa.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert any(len(set(group)) > 1 for group in together)


@pytest.mark.parametrize("name", MODELS)
def test_texts_depend_neither_on_the_batch_nor_on_the_order(name: str) -> None:
    qa = QAModel(name, num_demonstrations=1)
    settings = {"num_groups": 3, "strength": 0.5, "max_new_tokens": 10}
    together = qa.write_pairs(TEXTS, **settings)
    assert [qa.write_pairs([text], **settings)[0] for text in TEXTS] == together
    assert qa.write_pairs(TEXTS[::-1], **settings)[::-1] == together


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_demonstrations", [0, 2])
def test_scores_of_a_batch_equal_plain_forward_passes_one_at_a_time(
    name: str, num_demonstrations: int
) -> None:
    """39 pairs of one text are more than go into one forward pass; in float32 they agree to 1e-5."""
    qa = QAModel(name, num_demonstrations=num_demonstrations)
    scores = qa.mean_logprobs(TEXTS, PAIRS)
    assert [len(group) for group in scores] == [len(group) for group in PAIRS]
    for text, group, values in zip(TEXTS, PAIRS, scores, strict=True):
        row = qa.tokenizer(pair_prompt(text, num_demonstrations=num_demonstrations)).input_ids
        for pair, value in zip(group, values, strict=True):
            ids = qa.pair_ids(pair)
            logprobs = next_logprobs(qa.model, row, ids[:-1])[-len(ids) :]
            expected = [logprobs[i, token].item() for i, token in enumerate(ids)]
            assert value == pytest.approx(sum(expected) / len(ids), rel=1e-5, abs=1e-5)


def test_a_pair_ends_with_its_line_after_demonstrations_and_with_the_sequence_else() -> None:
    pair = QuestionAnswer("Why?", "rain")
    shown, trained = (QAModel("random:llama", num_demonstrations=n) for n in (1, 0))
    assert shown.tokenizer.decode(shown.pair_ids(pair)) == " Why? Answer: rain\n"
    assert trained.tokenizer.decode(trained.pair_ids(pair)) == " Why? Answer: rain<eos>"
    assert QAModel("random:t5", num_demonstrations=1).pair_ids(pair)[-1] == trained.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" What is ice? Answer: frozen water.\nText: more", ("What is ice?", "frozen water")),
        ("  What  is ice?  Answer:  water ", ("What is ice?", "water")),
        (" What is ice?", None),
        (" What? Answer: a Answer: b", None),
        (" What is ice? Answer: ", None),
        (" Answer: water", None),
        ("", None),
    ],
)
def test_a_pair_is_exactly_one_question_and_one_answer(text: str, expected) -> None:
    assert parse_pair(text) == expected


def test_what_is_rendered_is_what_is_parsed() -> None:
    for pair in (pair for group in PAIRS for pair in group):
        assert parse_pair(pair_target(pair)) == pair


def test_every_demonstration_obeys_the_filter_it_teaches() -> None:
    assert len(demonstrations()) == MOST_DEMONSTRATIONS
    for d in demonstrations():
        pair = QuestionAnswer(d["question"], d["answer"])
        assert select_pairs([pair_target(pair)], d["text"], most=1) == (pair,)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("He went to the party.", "art", False),
        ("He likes  Modern Art.", "modern art", True),
        ("It was 36.5 degrees", "36", True),
        ("A T-shirt (red).", "red", True),
        ("C++ is fast.", "C++", True),
        ("anything", "", False),
    ],
)
def test_an_answer_is_in_the_text_as_words(text: str, words: str, expected: bool) -> None:
    assert has_words(text, words) is expected


def test_pairs_come_from_the_distinct_answers_in_turn_up_to_a_strict_cap() -> None:
    def text(question: str, answer: str) -> str:
        return f" {question}? Answer: {answer}"

    written = [
        text("What falls", "rain"), text("What wets", "Rain"), text("what falls", "rain"),  # a double
        text("Whence", "clouds"), text("What pours", "rain"), text("Where", "party"), text("Who", "I"),
    ]  # fmt: skip
    source = "Rain comes from clouds, said I."
    kept = [(pair.question, pair.answer) for pair in select_pairs(written, source, most=9)]
    assert kept == [
        ("What falls?", "rain"),
        ("Whence?", "clouds"),
        ("Who?", "I"),
        ("What wets?", "Rain"),
        ("What pours?", "rain"),
    ]
    assert [(p.question, p.answer) for p in select_pairs(written, source, most=2)] == kept[:2]


class CountingModel(QAModel):
    """Unigram probabilities with add-one smoothing over the words of the text; asks what each word is."""

    def __init__(self) -> None:
        pass

    def write_pairs(self, texts, *, num_groups, strength, max_new_tokens):
        return [[f" What is {word}? Answer: {word}" for word in self.words(text)] for text in texts]

    def mean_logprobs(self, texts, pairs):
        return [
            [self.logprob(text, pair) for pair in group] for text, group in zip(texts, pairs, strict=True)
        ]

    def logprob(self, text: str, pair: QuestionAnswer) -> float:
        words = self.words(text)
        asked = self.words(" ".join(pair))
        return sum(math.log((words.count(w) + 1) / (len(words) + 1000)) for w in asked) / len(asked)

    def words(self, text: str) -> list[str]:
        return text.casefold().replace(".", "").replace("?", "").split()


def scorer(model: QAModel) -> QualsScorer:
    return QualsScorer(model, num_groups=4, strength=0.5, max_pairs=3, max_new_tokens=8)


def rationale(id_: str, text: str, facts: tuple[str, ...] = (), **more: str) -> Rationale:
    pair = QAPair(id_, "yes_no", "Does rain fall?", ("yes", "no"), "yes", facts=facts)
    return Rationale.from_row(
        pair.to_row() | {"kind": "factual", "target_answer": "yes", "rationale": text} | more
    )


def test_a_text_as_its_own_source_has_exactly_zero() -> None:
    (scores,) = scorer(CountingModel()).against([TEXTS[0]], [PAIRS[0]], [[TEXTS[0], TEXTS[1]]])
    assert scores[0] == 0.0 and scores[1] != 0.0
    real = scorer(QAModel("random:llama", num_demonstrations=1))
    for (same, other), text in zip(
        real.against(TEXTS, PAIRS[:1] * 4, [[text, text[::-1]] for text in TEXTS]), TEXTS, strict=True
    ):
        assert same == 0.0 and other != 0.0, text


def test_unrelated_sentences_in_the_facts_lower_grounded() -> None:
    text, fact = "Rain falls from clouds.", "Rain falls from the clouds."
    unrelated = "The mayor bought nine green bicycles for her sisters."
    one, two, three = scorer(CountingModel()).score(
        [rationale("a", text, (fact,)), rationale("b", text, (fact, unrelated)),
         rationale("c", text, (fact, unrelated, unrelated))], [(), (), ()]
    )  # fmt: skip
    assert one.grounded is not None and two.grounded is not None and three.grounded is not None
    assert one.grounded > two.grounded > three.grounded


def test_a_rationale_that_is_the_facts_is_not_compared_with_itself() -> None:
    """People's own, which would be fully grounded by construction."""
    text, facts = (
        "Rain falls from clouds. Clouds are water.",
        ("Rain falls from clouds.", "Clouds are water."),
    )
    (parts,) = scorer(CountingModel()).score([rationale("a", text, facts)], [("Bees make honey.",)])
    assert parts.novel is not None and parts.grounded is parts.delta is parts.shuffled is None


def test_parts_equal_their_definition_and_other_facts_are_a_floor() -> None:
    model = CountingModel()
    text, facts, others = "Rain falls from clouds.", ("Clouds make rain.",), ("Bees make honey.",)
    (parts,) = scorer(model).score([rationale("a", text, facts)], [others])
    pairs = [QuestionAnswer(f"What is {w}?", w) for w in ("rain", "falls", "from")]
    base = "Does rain fall? The answer is yes."

    def by_hand(source: str) -> float:
        return sum(model.logprob(source, p) - model.logprob(text, p) for p in pairs) / 3

    assert parts.num_pairs == 3
    assert parts.grounded == pytest.approx(by_hand(f"{base} Clouds make rain."))
    assert parts.novel == pytest.approx(-by_hand(base))
    assert parts.delta == pytest.approx(by_hand(f"{base} Clouds make rain.") - by_hand(base))
    assert parts.shuffled == pytest.approx(by_hand(f"{base} Bees make honey."))
    assert parts.grounded > parts.shuffled  # type: ignore[operator]


def test_without_pairs_all_is_undefined_and_without_facts_all_but_novel() -> None:
    empty, factless = scorer(CountingModel()).score(
        [rationale("a", "", ("A fact.",)), rationale("b", "Rain falls.")], [("x",), ("x",)]
    )
    assert empty == Quals()
    assert factless.novel is not None and factless.num_pairs == 2
    assert (factless.grounded, factless.delta, factless.shuffled) == (None, None, None)


def test_facts_are_the_explanation_where_a_question_has_no_others() -> None:
    assert supporting_facts(rationale("a", "", ("f", "g"), reference_rationale="r")) == ("f", "g")
    assert supporting_facts(rationale("a", "", (), reference_rationale="r")) == ("r",)
    assert supporting_facts(rationale("a", "")) == ()
    assert source_text(rationale("a", ""), ["F."]) == "Does rain fall? The answer is yes. F."


def test_scores_do_not_depend_on_the_order_of_the_rationales() -> None:
    rows = [rationale(str(i), text, (TEXTS[i - 1],)) for i, text in enumerate(TEXTS)]
    order = random.Random(0).sample(range(4), 4)
    straight = scorer(CountingModel()).score(rows, [()] * 4)
    mixed = scorer(CountingModel()).score([rows[i] for i in order], [()] * 4)
    assert [straight[i] for i in order] == mixed
