"""The scores and stop rules against values worked out by hand (METHOD section 7)."""

import math

import pytest
import torch

from cotray.teacher.contrastive import StopTokens, contrastive_scores, next_tokens


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


GROUNDED, CONTRAST = log(0.50, 0.30, 0.15, 0.04, 0.01), log(0.60, 0.10, 0.25, 0.04, 0.01)


@pytest.mark.parametrize(
    ("weight", "token", "scores"),
    [
        (0.0, 0, [math.log(p) for p in (0.50, 0.30, 0.15, 0.04, 0.01)]),
        (0.25, 0, [-0.5654, -0.6283, -1.5505, -2.4142, -3.4539]),
        (0.5, 1, [-0.4377, -0.0527, -1.2040, -1.6094, -2.3026]),
    ],
)
def test_scores_are_those_of_tv1(weight: float, token: int, scores: list[float]) -> None:
    actual = contrastive_scores(GROUNDED, CONTRAST, weight=weight)
    assert actual.dtype == torch.float32
    assert actual.tolist() == pytest.approx(scores, abs=1e-4)
    assert int(actual.argmax()) == token


def test_weight_one_gives_the_likelihood_ratio_of_tv1() -> None:
    scores = contrastive_scores(GROUNDED, CONTRAST, weight=1.0)
    assert int(scores.argmax()) == 1
    assert scores[1].item() == pytest.approx(1.0986, abs=1e-4)


@pytest.mark.parametrize(("weight", "token"), [(0.2850, 0), (0.2852, 1)])
def test_choice_flips_at_the_weight_of_tv1(weight: float, token: int) -> None:
    assert int(contrastive_scores(GROUNDED, CONTRAST, weight=weight).argmax()) == token


def test_papers_form_is_twice_the_half_weight_form() -> None:
    twice = 2 * GROUNDED.log_softmax(-1) - CONTRAST.log_softmax(-1)
    actual = 2 * contrastive_scores(GROUNDED, CONTRAST, weight=0.5)
    assert actual.tolist() == pytest.approx(twice.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("alpha", "distribution"),
    [(1.0, [0.2860, 0.6178, 0.0618, 0.0275, 0.0069]), (0.5, [0.3996, 0.4549, 0.1017, 0.0350, 0.0088])],
)
def test_cad_distribution_is_the_rescaled_score(alpha: float, distribution: list[float]) -> None:
    """TV-1, TV-16: (1 + alpha) log p* - alpha log p' is a rescaled score of weight alpha / (1 + alpha)."""
    weight = alpha / (1 + alpha)
    scores = contrastive_scores(GROUNDED, CONTRAST, weight=weight) * (1 + alpha)
    assert scores.softmax(-1).tolist() == pytest.approx(distribution, abs=1e-4)


@pytest.mark.parametrize(("weight", "alpha"), [(1 / 3, 0.5), (1 / 2, 1.0), (2 / 3, 2.0), (0.9, 9.0)])
def test_weight_and_alpha_choose_the_same_tokens(weight: float, alpha: float) -> None:
    """TV-16."""
    assert alpha / (1 + alpha) == pytest.approx(weight)
    logits = torch.randn(2, 500, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (1 + alpha) * logits[0].log_softmax(-1) - alpha * logits[1].log_softmax(-1)
    scores = contrastive_scores(logits[0], logits[1], weight=weight)
    assert scores.argmax(-1).tolist() == expected.argmax(-1).tolist()


TAIL = log(0.70, 0.20, 0.0899, 0.0100, 0.0001), log(0.80, 0.15, 0.0399, 0.010099999, 1e-9)


def test_without_a_mask_the_tail_wins_as_in_tv2() -> None:
    scores = contrastive_scores(*TAIL, weight=0.5)
    assert scores.tolist() == pytest.approx([-0.2451, -0.6609, -0.7984, -2.3076, 1.1513], abs=1e-4)


def test_mask_keeps_the_three_plausible_tokens_of_tv2() -> None:
    scores = contrastive_scores(*TAIL, weight=0.5, plausibility=0.1)
    assert torch.isfinite(scores).tolist() == [True, True, True, False, False]
    assert scores[3:].tolist() == [-math.inf, -math.inf]
    assert int(scores.argmax()) == 0


def test_scores_do_not_depend_on_the_normaliser_as_in_tv3() -> None:
    grounded, contrast = torch.tensor([1.0, 0.5, -1.0]), torch.tensor([3.0, 0.0, 0.0])
    scores = contrastive_scores(grounded, contrast, weight=0.5)
    assert scores.tolist() == pytest.approx([-0.5075, 0.4925, -1.0075], abs=1e-4)
    raw = grounded - 0.5 * contrast
    assert (scores - raw).tolist() == pytest.approx([-0.0075] * 3, abs=1e-4)


def test_impossible_tokens_never_win_and_never_make_nan() -> None:
    grounded = torch.tensor([0.0, -math.inf, 0.0])
    contrast = torch.tensor([0.0, -math.inf, -math.inf])
    for weight in (0.0, 0.5):
        scores = contrastive_scores(grounded, contrast, weight=weight)
        assert not scores.isnan().any()
        assert scores[1] == -math.inf


def test_each_row_has_its_own_weight() -> None:
    both = contrastive_scores(
        torch.stack([GROUNDED] * 2), torch.stack([CONTRAST] * 2), weight=torch.tensor([0.0, 0.5])
    )
    assert both.argmax(-1).tolist() == [0, 1]


STOPS = StopTokens(eos=frozenset({9}), text_before_break={0: ""})


def choose(grounded: torch.Tensor, contrast: torch.Tensor, **options) -> tuple[int, int]:
    settings: dict = {"weight": 0.5, "plausibility": 0.0} | options
    step = next_tokens(grounded[None], contrast[None], **settings)
    return int(step.chosen_B), int(step.greedy_B)


def test_plain_teachers_stop_wins_over_contrast_as_in_tv4() -> None:
    chosen, greedy = choose(log(0.40, 0.35, 0.25), log(0.70, 0.05, 0.25))
    assert (chosen, greedy) == (1, 0)
    assert STOPS.stop(chosen, greedy) == ("greedy_stop", "")


def test_contrastive_stop_ends_too_as_in_tv4() -> None:
    chosen, greedy = choose(log(0.30, 0.45, 0.25), log(0.02, 0.90, 0.08))
    assert (chosen, greedy) == (0, 1)
    assert STOPS.stop(chosen, greedy) == ("contrast_stop", "")


def test_text_before_a_line_break_still_belongs_to_the_rationale() -> None:
    stops = StopTokens(eos=frozenset({9}), text_before_break={3: "."})
    assert stops.stop(1, 3) == ("greedy_stop", ".")
    assert stops.stop(3, 1) == ("contrast_stop", ".")
    assert stops.stop(9, 1) == stops.stop(1, 9) == ("eos", "")
    assert stops.stop(1, 2) == ("", "")


@pytest.mark.parametrize(
    ("temperature", "where", "token"), [(1.0, "both", 0), (2.0, "grounded", 1), (2.0, "both", 0)]
)
def test_temperature_on_one_branch_changes_the_choice_as_in_tv5(temperature, where, token) -> None:
    grounded, contrast = torch.tensor([2.0, 1.5, 0.0]), torch.tensor([2.0, 1.2, 0.0])
    assert choose(grounded, contrast, temperature=temperature, temperature_on=where)[0] == token


def test_recorded_log_probabilities_are_the_chosen_tokens_own() -> None:
    step = next_tokens(GROUNDED[None], CONTRAST[None], weight=0.5, plausibility=0.0)
    assert step.grounded_logp_B.exp().item() == pytest.approx(0.30, abs=1e-6)
    assert step.contrast_logp_B.exp().item() == pytest.approx(0.10, abs=1e-6)
