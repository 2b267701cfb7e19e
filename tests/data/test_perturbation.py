from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cotray.config import DataConfig
from cotray.data.columns import UnusableRow
from cotray.data.file_formats import Unreadable
from cotray.data.perturbation import Rank, Source, answer_pool, requests_of, wrong
from cotray.data.questions import parse_pair
from cotray.data.readers import read_rows
from cotray.records import QAPair, Task, TeacherRequest

BINARY = QAPair("b", "yes_no", "Can a whale fly?", ("yes", "no"), "no")
FIVE = QAPair("m", "multiple_choice", "Which?", ("a", "b", "c", "d", "e"), "b")
OPEN = QAPair("o", "open", "Where?", (), "Paris")
ANSWERS = [f"city {n}" for n in range(30)] + ["paris"]


def both(pair: QAPair, perturbation: str, source: Source) -> tuple[TeacherRequest, TeacherRequest]:
    factual, counterfactual = requests_of(pair, perturbation, source)
    assert (factual.kind, counterfactual.kind) == ("factual", "counterfactual")
    return factual, counterfactual


def answers(request: TeacherRequest) -> tuple[str, str]:
    return request.target_answer, request.contrast_answer


def sample_pairs() -> list[QAPair]:
    rows = [row for _, row in read_rows(DataConfig()) if not isinstance(row, Unreadable)]
    return [parse_pair(row, DataConfig(), seed=42) for row in rows]


def test_wrong_flips_a_binary_answer_once_for_each_branch():
    """The counterfactual target is the flipped GOLD; flipping the contrast again would give gold back."""
    factual, counterfactual = both(BINARY, "wrong", Source(42))
    assert answers(factual) == ("no", "yes")
    assert answers(counterfactual) == ("yes", "no")


def test_empty_contrasts_with_nothing_in_both_kinds():
    factual, counterfactual = both(BINARY, "empty", Source(42))
    assert answers(factual) == ("no", "")
    assert answers(counterfactual) == ("yes", "")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_only_training_questions_get_a_counterfactual(split):
    requests = requests_of(replace(FIVE, split=split), "wrong", Source(42))
    assert [request.kind for request in requests] == ["factual"]


def test_a_request_carries_its_question_along():
    factual, _ = both(FIVE, "wrong", Source(42))
    assert QAPair.from_row(factual.to_row()) == FIVE
    assert factual.perturbation == "wrong"


@pytest.mark.parametrize("perturbation", ["wrong", "empty", "hardest"])
def test_a_counterfactual_never_argues_for_gold_in_the_sample(perturbation):
    source = Source(42, rank=lambda pair, candidates: [len(c) for c in candidates])
    for pair in sample_pairs():
        for request in requests_of(pair, perturbation, source):
            if request.kind == "factual":
                assert request.target_answer == pair.answer != request.contrast_answer
            else:
                assert request.target_answer in set(pair.choices) - {pair.answer}
                assert request.contrast_answer == ("" if perturbation == "empty" else pair.answer)


def test_wrong_draws_the_wrong_choices_equally_often():
    drawn = Counter(wrong(replace(FIVE, id=str(n)), Source(42), "contrast") for n in range(4000))
    assert set(drawn) == {"a", "c", "d", "e"}
    assert all(900 < count < 1100 for count in drawn.values())  # 1000 +- 3.6 standard deviations


def test_contrast_and_counterfactual_are_independent_draws():
    pairs = [both(replace(FIVE, id=str(n)), "wrong", Source(42)) for n in range(4000)]
    agreeing = sum(f.contrast_answer == c.target_answer for f, c in pairs)
    assert 900 < agreeing < 1100  # one in four


def test_draws_depend_on_seed_and_id_only():
    pairs = [replace(FIVE, id=str(n)) for n in range(200)]
    source = Source(42)
    forwards = {pair.id: requests_of(pair, "wrong", source) for pair in pairs}
    random.Random(0).shuffle(pairs)
    assert {pair.id: requests_of(pair, "wrong", source) for pair in pairs} == forwards
    assert {pair.id: requests_of(pair, "wrong", Source(43)) for pair in pairs} != forwards


def test_the_pool_is_the_same_in_any_order():
    spelled = [*ANSWERS, "PARIS", "Paris", *(f"City  {n}" for n in range(30))]
    pool = answer_pool(spelled, 42, size=10)
    assert len(pool) == 10
    for shuffle_seed in range(20):
        random.Random(shuffle_seed).shuffle(spelled)
        assert answer_pool(spelled, 42, size=10) == pool
    assert answer_pool(spelled, 43, size=10) != pool


def test_a_small_pool_holds_every_distinct_answer_once():
    assert sorted(answer_pool(["b", "A", "a", " a", "b"], 42)) == [" a", "b"]


def test_an_open_question_takes_another_questions_answer():
    pool = answer_pool(ANSWERS, 42)
    for n in range(500):
        factual, counterfactual = both(replace(OPEN, id=str(n)), "wrong", Source(42, lambda task: pool))
        for answer in (factual.contrast_answer, counterfactual.target_answer):
            assert answer in ANSWERS and answer != "paris"


def test_the_pool_is_not_made_where_no_open_question_needs_it():
    def pool(task: Task) -> Sequence[str]:
        raise AssertionError("called")

    requests_of(FIVE, "wrong", Source(42, pool))
    requests_of(replace(OPEN, split="test"), "empty", Source(42, pool))


def test_an_open_question_without_other_answers_is_unusable():
    with pytest.raises(UnusableRow, match="no other open question has a different answer"):
        requests_of(OPEN, "wrong", Source(42, lambda task: ("PARIS",)))


def recording(asked: list) -> Rank:
    def rank(pair: QAPair, candidates: Sequence[str]) -> list[float]:
        asked.append(list(candidates))
        return [ord(candidate[-1]) % 7 for candidate in candidates]

    return rank


def test_hardest_is_the_likeliest_wrong_choice_and_asks_the_teacher_once():
    asked: list = []
    factual, counterfactual = both(FIVE, "hardest", Source(42, rank=recording(asked)))
    assert asked == [["a", "c", "d", "e"]]  # scores 97, 99, 100, 101 modulo 7 = 6, 1, 2, 3
    assert answers(factual) == ("b", "a")
    assert answers(counterfactual) == ("a", "b")


def test_hardest_of_a_binary_question_needs_no_teacher():
    factual, counterfactual = both(BINARY, "hardest", Source(42))
    assert answers(factual) == ("no", "yes")
    assert answers(counterfactual) == ("yes", "no")


def test_hardest_of_an_open_question_ranks_eight_answers():
    asked: list = []
    pool = answer_pool(ANSWERS, 42)
    factual, counterfactual = both(OPEN, "hardest", Source(42, lambda task: pool, recording(asked)))
    assert [len(set(candidates)) for candidates in asked] == [8]
    assert "paris" not in asked[0]
    best = max(ord(candidate[-1]) % 7 for candidate in asked[0])
    assert ord(factual.contrast_answer[-1]) % 7 == best
    assert counterfactual.target_answer == factual.contrast_answer
