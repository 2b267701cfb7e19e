"""Scores and stop rules against values worked out by hand: docs/explanation/method.md#contrastive-decoding"""

import math

import pytest
import torch
from splitmix import splitmix

from cotray.models.token_draws import uniforms
from cotray.teacher.contrastive import (
    Decoding,
    StopTokens,
    choose_from_rows,
    choose_tokens,
    contrastive_scores,
    token_logprobs,
)


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
def test_scores_are_those_worked_out_by_hand(weight: float, token: int, scores: list[float]) -> None:
    actual = contrastive_scores(GROUNDED, CONTRAST, weight=weight)
    assert actual.dtype == torch.float32
    assert actual.tolist() == pytest.approx(scores, abs=1e-4)
    assert int(actual.argmax()) == token


def test_weight_one_gives_the_likelihood_ratio_worked_out_by_hand() -> None:
    scores = contrastive_scores(GROUNDED, CONTRAST, weight=1.0)
    assert int(scores.argmax()) == 1
    assert scores[1].item() == pytest.approx(1.0986, abs=1e-4)


@pytest.mark.parametrize(("weight", "token"), [(0.2850, 0), (0.2852, 1)])
def test_choice_flips_at_the_weight_worked_out_by_hand(weight: float, token: int) -> None:
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
    """(1 + alpha) log p* - alpha log p' is a rescaled score of weight alpha / (1 + alpha)."""
    weight = alpha / (1 + alpha)
    scores = contrastive_scores(GROUNDED, CONTRAST, weight=weight) * (1 + alpha)
    assert scores.softmax(-1).tolist() == pytest.approx(distribution, abs=1e-4)


@pytest.mark.parametrize(("weight", "alpha"), [(1 / 3, 0.5), (1 / 2, 1.0), (2 / 3, 2.0), (0.9, 9.0)])
def test_weight_and_alpha_choose_the_same_tokens(weight: float, alpha: float) -> None:
    """docs/explanation/method.md#contrastive-decoding: alpha is that of context-aware decoding."""
    assert alpha / (1 + alpha) == pytest.approx(weight)
    logits = torch.randn(2, 500, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (1 + alpha) * logits[0].log_softmax(-1) - alpha * logits[1].log_softmax(-1)
    scores = contrastive_scores(logits[0], logits[1], weight=weight)
    assert scores.argmax(-1).tolist() == expected.argmax(-1).tolist()


TAIL = log(0.70, 0.20, 0.0899, 0.0100, 0.0001), log(0.80, 0.15, 0.0399, 0.010099999, 1e-9)


def test_without_a_mask_a_token_improbable_in_both_branches_wins() -> None:
    scores = contrastive_scores(*TAIL, weight=0.5)
    assert scores.tolist() == pytest.approx([-0.2451, -0.6609, -0.7984, -2.3076, 1.1513], abs=1e-4)


def test_mask_keeps_the_three_plausible_tokens() -> None:
    scores = contrastive_scores(*TAIL, weight=0.5, plausibility=0.1)
    assert torch.isfinite(scores).tolist() == [True, True, True, False, False]
    assert scores[3:].tolist() == [-math.inf, -math.inf]
    assert int(scores.argmax()) == 0


def test_scores_do_not_depend_on_the_normaliser() -> None:
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
    chosen_B, greedy_B = choose_tokens(grounded[None], contrast[None], Decoding(**options), weight=0.5)
    return int(chosen_B), int(greedy_B)


def test_plain_teachers_stop_wins_over_contrast() -> None:
    chosen, greedy = choose(log(0.40, 0.35, 0.25), log(0.70, 0.05, 0.25))
    assert (chosen, greedy) == (1, 0)
    assert STOPS.stop(chosen, greedy) == ("greedy_stop", "")


def test_contrastive_stop_ends_too() -> None:
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
def test_temperature_on_one_branch_changes_the_choice(temperature, where, token) -> None:
    grounded, contrast = torch.tensor([2.0, 1.5, 0.0]), torch.tensor([2.0, 1.2, 0.0])
    assert choose(grounded, contrast, temperature=temperature, temperature_on=where)[0] == token


def test_recorded_log_probabilities_are_those_of_the_chosen_and_of_the_greedy_token() -> None:
    scores_B4 = token_logprobs(
        GROUNDED[None],
        CONTRAST[None],
        Decoding(),
        chosen_B=torch.tensor([1]),
        greedy_B=torch.tensor([0]),
    )
    assert scores_B4.exp()[0].tolist() == pytest.approx([0.30, 0.10, 0.50, 0.60], abs=1e-6)


def test_without_a_contrast_branch_the_grounded_one_decides_and_is_recorded_twice() -> None:
    chosen_B, greedy_B = choose_tokens(GROUNDED[None], None, Decoding(plausibility=0.9), weight=0.5)
    assert (int(chosen_B), int(greedy_B)) == (0, 0)
    scores_B4 = token_logprobs(GROUNDED[None], None, Decoding(), chosen_B=chosen_B, greedy_B=greedy_B)
    assert scores_B4.exp()[0].tolist() == pytest.approx([0.5] * 4)


def test_uniforms_are_splitmix64_of_seed_and_step() -> None:
    seeds, steps = [0, 1, 2**63 - 1, 12345], [0, 7, 100, 3]
    actual = uniforms(torch.tensor(seeds), torch.tensor(steps)).tolist()
    assert actual == [splitmix(seed, step) for seed, step in zip(seeds, steps, strict=True)]


def test_draws_follow_the_softmax_of_the_scores() -> None:
    """The scores' softmax at weight 0.5, by 20,000 draws."""
    uniform_B = uniforms(torch.zeros(20_000, dtype=torch.int64), torch.arange(20_000))
    rows = GROUNDED.expand(20_000, -1), CONTRAST.expand(20_000, -1)
    drawn_B, _ = choose_tokens(*rows, Decoding(), weight=0.5, uniform_B=uniform_B)
    shares = torch.bincount(drawn_B, minlength=5) / 20_000
    weights = [math.exp(score) for score in (-0.4377, -0.0527, -1.2040, -1.6094, -2.3026)]
    assert shares.tolist() == pytest.approx([w / sum(weights) for w in weights], abs=0.01)


def test_masked_tokens_are_never_drawn() -> None:
    uniform_B = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    rows = TAIL[0].expand(3, -1), TAIL[1].expand(3, -1)
    drawn_B, _ = choose_tokens(*rows, Decoding(plausibility=0.1), weight=0.5, uniform_B=uniform_B)
    assert drawn_B.tolist() == [0, 1, 2]


def many_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of 1,024 pairs over 4,000 tokens, impossible ones among them, and their weights."""
    generator = torch.Generator().manual_seed(0)
    grounded = torch.randn(1024, 4000, generator=generator) * 4
    contrast = torch.randn(1024, 4000, generator=generator) * 4
    grounded[:, :9], contrast[:, 5:14] = -torch.inf, -torch.inf
    weight = torch.rand(1024, generator=generator)
    weight[:8] = 0
    return grounded, contrast, weight


@pytest.mark.parametrize("plausibility", [1.0, 0.5, 0.1, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_looking_at_plausible_tokens_alone_changes_no_choice_whichever_rows_they_are_in(
    plausibility: float, dtype: torch.dtype
) -> None:
    """In bfloat16 many values are equal, and then the first one counts."""
    grounded, contrast, weight = many_rows()
    shuffled = torch.randperm(2048, generator=torch.Generator().manual_seed(1))
    places = shuffled.argsort()
    both = torch.cat([grounded, contrast]).to(dtype).float()
    found = choose_from_rows(
        both[shuffled], places[:1024], places[1024:], Decoding(plausibility), weight_B=weight
    )
    expected = choose_tokens(both[:1024], both[1024:], Decoding(plausibility), weight=weight)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_without_a_number_end_nothing() -> None:
    """As torch does, the first such value is taken."""
    logits = torch.zeros(2, 5)
    logits[0, 3] = torch.nan
    rows = torch.tensor([0]), torch.tensor([1])
    chosen, greedy = choose_from_rows(logits, *rows, Decoding(0.1), weight_B=torch.tensor([0.5]))
    assert chosen.tolist() == greedy.tolist() == [int(logits[0].argmax())] == [3]


def test_the_best_token_needs_no_normalisers() -> None:
    """At several temperatures and weights."""
    grounded, contrast, weight = many_rows()
    for decoding in (
        Decoding(),
        Decoding(plausibility=0.1),
        Decoding(0.1, 0.7, "grounded"),
        Decoding(0.0, 2.0),
    ):
        chosen, greedy = choose_tokens(grounded, contrast, decoding, weight=weight)
        scores = contrastive_scores(
            grounded.double() / decoding.temperature,
            contrast.double() / decoding.contrast_temperature,
            weight=weight,
            plausibility=decoding.plausibility,
        )
        assert torch.equal(chosen, scores.argmax(-1)) and torch.equal(greedy, grounded.argmax(-1))
