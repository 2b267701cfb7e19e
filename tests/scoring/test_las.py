"""LAS against tables worked out by hand (docs/explanation/method.md#las) and a plain-Python loop."""

import random

import pytest

from cotray.inference.student_reply import match_choice
from cotray.scoring.las import binned_las, las
from cotray.scoring.statistics import accuracy_ci95, mean_and_std
from cotray.scoring.student import perturb_tokens

STUDENT, X, E, XE = "ABACBACB", "ACBCCAAC", "ABACBBAC", "ABACBACC"


def columns(*indices: int) -> list[list[str]]:
    return [[column[i] for i in indices] for column in (STUDENT, X, E, XE)]


def test_las_of_eight_questions_worked_out_by_hand() -> None:
    report = las(STUDENT, X, E, XE)
    assert (report.num_leaking, report.num_nonleaking) == (5, 3)
    assert report.las_leaking == pytest.approx(0.6)
    assert report.las_nonleaking == pytest.approx(1 / 3)
    assert report.las == pytest.approx(0.4667, abs=1e-4)
    assert report.sim_gain == pytest.approx(0.5)
    assert report.leak_rate == pytest.approx(0.625)
    assert (report.accuracy_x, report.accuracy_e, report.accuracy_xe) == (0.375, 0.625, 0.875)
    assert "3 rows" in report.reason


def test_an_answer_is_the_same_whatever_its_case_and_spacing() -> None:
    """Open answers, which the simulator writes as it likes; numbers of classes are themselves."""
    written = [[f" {answer.upper()}" for answer in column] for column in (X, E, XE)]
    assert las(STUDENT, *written) == las(STUDENT, X, E, XE)
    assert las([1, 2], [1, 1], [1, 3], [1, 2]).accuracy_xe == 1


def test_las_is_none_with_a_reason_when_everything_leaks() -> None:
    report = las(STUDENT, X, STUDENT, XE)
    assert report.las is None and report.ci95 is None and report.las_nonleaking is None
    assert report.las_leaking == pytest.approx(0.5)
    assert report.sim_gain == pytest.approx(0.5)
    assert report.leak_rate == 1.0 and report.undefined_resamples == 1.0
    assert "every rationale leaks" in report.reason


def test_las_is_none_with_a_reason_when_nothing_leaks() -> None:
    report = las(STUDENT, X, "?" * 8, XE)
    assert report.las is None and report.las_leaking is None
    assert report.las_nonleaking == pytest.approx(0.5)
    assert "no rationale leaks" in report.reason


def test_las_of_resampled_rows_worked_out_by_hand() -> None:
    report = las(*columns(0, 0, 1, 1, 5, 5, 6, 7))
    assert (report.las_leaking, report.las_nonleaking, report.las) == (0.5, 0.25, 0.375)
    report = las(*columns(5, 6, 7, 5, 6, 7, 5, 6))
    assert (report.las_nonleaking, report.las) == (0.375, None)


def test_las_can_be_zero_although_the_raw_gain_is_not() -> None:
    """The second table of docs/explanation/method.md#las, as bits: 1 = the simulator is right."""
    x, e, xe = "10001101", "11111100", "11111100"
    report = las("11111111", x, e, xe)
    assert (report.las_leaking, report.las_nonleaking, report.las) == (0.5, -0.5, 0.0)
    assert report.sim_gain == 0.25


def test_no_rows_give_none_and_a_reason() -> None:
    report = las([], [], [], [])
    assert report.las is None and report.sim_gain is None and report.reason == "no rows"


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        las("AB", "A", "AB", "AB")


@pytest.mark.parametrize(("num_bins", "expected"), [(2, 0.4667), (4, 0.4167), (10, 0.5)])
def test_binned_las_is_the_mean_over_bins_that_have_rows(num_bins: int, expected: float) -> None:
    leak = [0.95, 0.85, 0.75, 0.60, 0.55, 0.40, 0.20, 0.05]
    assert binned_las(STUDENT, X, XE, leak, num_bins=num_bins) == pytest.approx(expected, abs=1e-4)


def plain_las(rows: list[tuple[str, ...]]) -> tuple[float | None, float]:
    """LAS and gain by loops over rows, as the definition reads."""
    groups: dict[bool, list[int]] = {True: [], False: []}
    gain = 0
    for y, x, e, xe in rows:
        groups[e == y].append((xe == y) - (x == y))
        gain += (xe == y) - (x == y)
    if not groups[True] or not groups[False]:
        return None, gain / len(rows)
    return sum(sum(g) / len(g) for g in groups.values()) / 2, gain / len(rows)


@pytest.mark.parametrize("seed", range(50))
def test_las_equals_a_plain_recomputation_on_random_tables(seed: int) -> None:
    random_ = random.Random(seed)
    labels = "ABCDE"[: random_.randint(2, 5)]
    rows = [tuple(random_.choice(labels) for _ in range(4)) for _ in range(random_.randint(1, 60))]
    report = las(*[list(column) for column in zip(*rows, strict=True)], num_resamples=100)
    expected_las, expected_gain = plain_las(rows)
    assert report.las == (None if expected_las is None else pytest.approx(expected_las))
    assert report.sim_gain == pytest.approx(expected_gain)


def test_interval_equals_that_of_resampling_rows_one_by_one() -> None:
    random_ = random.Random(1)
    rows = [tuple(random_.choice("AB") for _ in range(4)) for _ in range(80)]
    report = las(*[list(column) for column in zip(*rows, strict=True)], num_resamples=20_000)
    values = sorted(
        v for v, _ in (plain_las(random_.choices(rows, k=80)) for _ in range(4000)) if v is not None
    )
    low, high = values[int(0.025 * len(values))], values[int(0.975 * len(values))]
    assert report.ci95 == pytest.approx((low, high), abs=0.02)
    assert report.undefined_resamples == 0.0


def test_interval_is_the_same_for_the_same_seed() -> None:
    assert las(STUDENT, X, E, XE, seed=3) == las(STUDENT, X, E, XE, seed=3)
    other = las(STUDENT, X, E, XE, seed=4)
    assert las(STUDENT, X, E, XE, seed=3).undefined_resamples != other.undefined_resamples


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ([57.6419, 57.6419, 55.4585, 55.0218, 53.7118], 55.8952, 1.5377),
        ([86.8996, 92.5764, 85.5895, 88.2096, 87.3362], 88.1223, 2.3822),
        ([53.2751, 53.7118, 47.1616, 54.1485, 50.2183], 51.7031, 2.6577),
    ],
)
def test_seeds_are_summarised_by_the_population_deviation(values, mean, std) -> None:
    assert mean_and_std(values) == pytest.approx((mean, std), abs=1e-4)


def test_accuracy_interval_is_the_binomial_one() -> None:
    low, high = accuracy_ci95([True] * 30 + [False] * 70) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.21, 0.39), abs=0.011)
    assert accuracy_ci95([]) is None


@pytest.mark.parametrize(("length", "num_replaced"), [(13, 6), (1, 0), (0, 0)])
def test_perturbation_replaces_the_whole_part_of_the_share(length: int, num_replaced: int) -> None:
    ids = list(range(100, 100 + length))
    perturbed = perturb_tokens(ids, range(5), fraction=0.5, random_=random.Random(0))
    assert sum(a != b for a, b in zip(ids, perturbed, strict=True)) == num_replaced


def test_perturbation_never_keeps_a_chosen_token() -> None:
    perturbed = perturb_tokens([1] * 40, [1, 2], fraction=1.0, random_=random.Random(0))
    assert perturbed == [2] * 40


def test_answers_match_choices_but_for_case_and_spacing() -> None:
    assert match_choice("New  york", ["Boston", "New York"]) == "New York"
    assert match_choice("York", ["Boston", "New York"]) is None
    assert match_choice("", ["yes", "no"]) is None
    assert match_choice("anything", []) == "anything"
    assert match_choice("", []) is None
