"""The student's and the simulator's prompts, choices and generation, against plain forward passes."""

from __future__ import annotations

import pytest
import torch

from cotray.config import ScoringConfig
from cotray.inference.generation import generate_texts
from cotray.inference.likelihood import Context, candidate_logprobs, likeliest
from cotray.inference.student_reply import match_answer, match_choice
from cotray.models.loading import load_for_inference
from cotray.prompts.simulator import prompted_source, simulator_example, simulator_source
from cotray.prompts.student import (
    ANSWER_PHRASE,
    parse_student,
    student_example,
    student_source,
    tag_of,
    target_prefix,
    trained_prompt,
)
from cotray.records import QAPair, Rationale, StudentAnswer
from cotray.scoring.simulator import Simulator
from cotray.scoring.student import Student, choose_or_write
from cotray.stages.score import figures

MODELS = ("random:llama", "random:t5", "random:gpt2")
CHOICE = QAPair("c1", "multiple_choice", "Where is the cat?", ("mat", "sea", "Old Rome"), "mat", "test")
YES_NO = QAPair("y1", "yes_no", "Is ice cold?", ("yes", "no"), "yes", "test")
OPEN = QAPair("o1", "open", "How many legs has a cat?", (), "four", "test")
CONTEXTS = [
    Context("[factual] Is ice cold?\n", f"Because.{ANSWER_PHRASE}", [" yes", " no", " maybe not"]),
    Context(
        "[factual] A longer question, is it?\n(A) x\n", f"Something else.{ANSWER_PHRASE}", [" x y z", " b"]
    ),
]


def plain_logprob(model, tokenizer, context: Context, candidate: str) -> float:
    """One unpadded forward pass over everything, and the sum over the candidate's tokens."""
    if model.config.is_encoder_decoder:
        ids = tokenizer(context.target_prefix + candidate).input_ids
        start = len(tokenizer(context.target_prefix).input_ids)
        decoder = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
        source = tokenizer(context.source, return_tensors="pt").input_ids
        logp = model(input_ids=source, decoder_input_ids=decoder).logits[0].log_softmax(-1)
        return sum(logp[i, ids[i]].item() for i in range(start, len(ids)))
    ids = tokenizer(context.source + context.target_prefix + candidate).input_ids
    start = len(tokenizer(context.source + context.target_prefix).input_ids)
    logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logp[i - 1, ids[i]].item() for i in range(start, len(ids)))


@pytest.mark.parametrize("name", MODELS)
def test_choice_likelihoods_equal_plain_forward_passes(name: str) -> None:
    model, tokenizer = load_for_inference(name)
    for context, scores in zip(CONTEXTS, candidate_logprobs(model, tokenizer, CONTEXTS), strict=True):
        expected = [plain_logprob(model, tokenizer, context, c) for c in context.candidates]
        assert scores == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_batched_generation_equals_one_row_at_a_time(name: str) -> None:
    model, tokenizer = load_for_inference(name)
    sources = ["[factual] Is ice cold?\n", "[factual] A much longer question than that one, or not?\n"]
    together = generate_texts(model, tokenizer, sources, forced="[factual]", max_new_tokens=8)
    alone = [generate_texts(model, tokenizer, [s], forced="[factual]", max_new_tokens=8)[0] for s in sources]
    assert together == alone


@pytest.mark.parametrize("name", MODELS)
def test_questions_without_choices_are_answered_in_free_text_together_as_one_by_one(name: str) -> None:
    model, tokenizer = load_for_inference(name)
    closed = QAPair("c", "multiple_choice", "", ("yes", "no", "maybe not"), "")
    open_ = QAPair("o", "open", "", (), "")
    contexts = [CONTEXTS[0]]
    for reason in ("Because.", "Nobody knows why, but it is so.", "Because."):
        contexts.append(Context(f"How many? {len(contexts)}\n", f"{reason}{ANSWER_PHRASE}", []))
    first, *rest = choose_or_write(model, tokenizer, contexts, [closed, open_, open_, open_])
    assert first in closed.choices
    assert rest == [choose_or_write(model, tokenizer, [one], [open_])[0] for one in contexts[1:]]
    assert choose_or_write(model, tokenizer, [], []) == []


def test_likeliest_is_the_largest_not_the_first() -> None:
    assert likeliest(["a", "b", "c"], [-3.0, -1.0, -2.0]) == "b"


def test_student_reads_tag_question_and_lettered_choices() -> None:
    expected = "[factual] Where is the cat?\n(A) mat (B) sea (C) Old Rome\n"
    assert student_source(CHOICE, tag="[factual]") == expected
    assert student_source(YES_NO, tag="") == "Is ice cold?\n"


def test_encoder_decoders_carry_the_tag_on_both_sides() -> None:
    rationale = Rationale.from_row(
        YES_NO.to_row() | {"kind": "factual", "target_answer": "yes", "rationale": " Ice is frozen. "}
    )
    both = student_example(rationale, tags="on", seed=0, is_encoder_decoder=True)
    assert both.target == "[factual] Ice is frozen. So the answer is yes"
    once = student_example(rationale, tags="on", seed=0, is_encoder_decoder=False)
    assert once.target == "Ice is frozen. So the answer is yes" and once.supervise_from == 0


def test_counterfactual_examples_are_supervised_from_the_answer_on() -> None:
    row = YES_NO.to_row() | {"kind": "counterfactual", "target_answer": "no", "rationale": "It melts."}
    example = student_example(Rationale.from_row(row), tags="on", seed=0, is_encoder_decoder=False)
    assert example.source.startswith("[counterfactual] ")
    assert example.target[example.supervise_from :] == " no"


def test_shuffled_tags_are_drawn_by_id_and_off_means_none() -> None:
    tags = [tag_of("factual", "shuffled", seed=0, record_id=str(i)) for i in range(200)]
    assert 60 < tags.count("[counterfactual]") < 140
    assert tags == [tag_of("factual", "shuffled", seed=0, record_id=str(i)) for i in range(200)]
    assert tag_of("factual", "off", seed=0, record_id="1") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[factual] Ice is frozen. So the answer is yes.", ("Ice is frozen.", "yes")),
        ("He said So the answer is no. So the answer is yes", ("He said So the answer is no.", "yes")),
        ("It has no phrase at all", ("It has no phrase at all", "")),
        (" So the answer is no", ("", "no")),
        ("", ("", "")),
    ],
)
def test_the_last_answer_phrase_counts(text: str, expected: tuple[str, str]) -> None:
    """A rationale may contain the phrase itself."""
    assert parse_student(text, tag="[factual]") == expected


def test_forced_prefix_is_what_training_saw() -> None:
    """The oracle prefix must be spaced as in training."""
    row = YES_NO.to_row() | {"kind": "factual", "target_answer": "yes", "rationale": "Ice is frozen."}
    example = student_example(Rationale.from_row(row), tags="on", seed=0, is_encoder_decoder=True)
    assert example.target.startswith(
        target_prefix("Ice is frozen.", tag="[factual]", is_encoder_decoder=True)
    )


def test_a_full_stop_after_the_answer_is_no_other_answer() -> None:
    assert match_choice("the U.S", ["Canada", "the U.S."]) == "the U.S."
    assert match_choice("Mat.", CHOICE.choices) == "mat"


def test_a_number_is_the_same_number_however_it_is_written() -> None:
    number = QAPair("n", "number", "How many?", (), "1200")
    for written in ("1200", "1,200", "$1,200.00", "1200 books.", "about 1200.0"):
        assert match_answer(written, number) == "1200"
    assert match_answer("-0.50 degrees", number) == "-0.5"
    assert match_answer("\u22123", number) == "-3"
    assert match_answer("1/2", number) == "1/2"
    assert match_answer("none", number) is None


def test_simulator_arms_leave_out_what_they_say() -> None:
    x = simulator_source(CHOICE, "Cats like mats.", arm="x")
    e = simulator_source(CHOICE, "Cats like mats.", arm="e")
    assert x == "Where is the cat? The choices are mat, sea and Old Rome.\n"
    assert e == "The choices are mat, sea and Old Rome. My reasoning: Cats like mats.\n"
    assert simulator_source(CHOICE, "Cats like mats.", arm="xe") == (
        "Where is the cat? The choices are mat, sea and Old Rome. My reasoning: Cats like mats.\n"
    )
    assert prompted_source(CHOICE, "", arm="x").count("The answer is:") == 4


def test_simulator_learns_the_students_answer_not_the_gold_one() -> None:
    answer = StudentAnswer.from_row(CHOICE.to_row() | {"rationale": "Fish.", "student_answer": "sea"})
    example = simulator_example(answer, drop_x=False, drop_e=True)
    assert example.target[example.supervise_from :] == " sea"
    assert "Fish" not in example.source


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_student_and_simulator_give_every_row_valid_answers(name: str) -> None:
    rows = [
        Rationale.from_row(
            p.to_row() | {"kind": "factual", "target_answer": p.answer, "rationale": "So it is."}
        )
        for p in (CHOICE, YES_NO, OPEN)
    ]
    rows.append(Rationale.from_row(rows[0].to_row() | {"id": "bad", "error": "failed", "rationale": ""}))
    student = Student(
        name, config=ScoringConfig(max_new_tokens=6), prompt=trained_prompt("on"), seed=0, method="greedy"
    )
    answers = student.answer(rows)
    assert [a.id for a in answers] == ["c1", "y1", "o1", "bad"]
    assert answers[0].student_answer in CHOICE.choices and answers[0].perturbed_answer in CHOICE.choices
    assert answers[0].oracle_answer in CHOICE.choices and answers[3].oracle_answer == ""
    for mode in ("trained", "prompted"):
        simulations = Simulator(name, mode=mode).simulate(answers)
        assert all(
            s.sim_x in CHOICE.choices and s.sim_xe in CHOICE.choices for s in (simulations[0], simulations[3])
        )
    result = figures(simulations, num_resamples=100, seed=0)
    assert result["oracle_accuracy"]["n"] == 3 and result["accuracy"]["n"] == 4
