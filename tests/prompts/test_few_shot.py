"""The two methods without contrast or training: people as the teacher, and the teacher as the student."""

from __future__ import annotations

import pytest

from cotray.config import ScoringConfig, TeacherConfig, parse_config
from cotray.inference.generation import generate_texts
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.teacher import demonstrations
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.scoring.student import Student
from cotray.teacher.teacher import build_teacher

PAIR = QAPair("q", "yes_no", "Is  ice\ncold?", ("yes", "no"), "yes")
CHOICE = QAPair("c", "multiple_choice", "Where is it?", ("mat", "sea"), "sea")


def test_a_demonstration_reasons_before_it_answers_and_the_question_stays_open() -> None:
    first = demonstrations("yes_no")[0]
    assert FewShotPrompt(1).source(PAIR) == (
        f"Q: {first['question']}\nA: {first['rationale']} So the answer is {first['answer']}.\n\n"
        "Q: Is ice cold?\nA:"
    )
    assert FewShotPrompt(0).source(CHOICE) == "Q: Where is it?\nAnswer Choices:\n(a) mat\n(b) sea\nA:"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Ice is frozen. So the answer is yes.\n\nQ: So the answer is no.", ("Ice is frozen.", "yes")),
        ("So the answer is no", ("", "no")),
        (" It melts.\nSo the answer is no.", ("It melts.", "")),
        ("", ("", "")),
    ],
)
def test_only_the_first_line_is_the_models_answer(text: str, expected: tuple[str, str]) -> None:
    assert FewShotPrompt(2).parse(text) == expected


def test_what_is_forced_reads_as_a_demonstration_does() -> None:
    """Prompt + prefix + answer of a demonstration is that demonstration's own text."""
    second = demonstrations("yes_no")[1]
    pair = QAPair("d", "yes_no", second["question"], ("yes", "no"), second["answer"])
    prompt = FewShotPrompt(1)
    whole = prompt.source(pair) + prompt.prefix(second["rationale"], is_encoder_decoder=False)
    assert f"{whole} {second['answer']}.\n\n" + "Q: Is ice cold?\nA:" == FewShotPrompt(2).source(PAIR)
    assert prompt.prefix("", is_encoder_decoder=False) == " So the answer is"


def test_the_prompts_version_changes_with_the_demonstrations_alone() -> None:
    assert FewShotPrompt(2).version == FewShotPrompt(2).version != FewShotPrompt(3).version


def test_a_prompted_model_answers_every_row_and_stops_at_the_line() -> None:
    rows = [
        Rationale.from_row(
            pair.to_row() | {"split": "test", "target_answer": pair.answer, "rationale": "So."}
        )
        for pair in (PAIR, CHOICE)
    ]
    config = ScoringConfig(max_new_tokens=40)
    student = Student("random:llama", config=config, prompt=FewShotPrompt(1), seed=0, method="few-shot")
    answers = student.answer(rows)
    free = generate_texts(
        student.model,
        student.tokenizer,
        [FewShotPrompt(1).source(pair) for pair in (PAIR, CHOICE)],
        forced="",
        max_new_tokens=40,
    )
    for answer, row, text in zip(answers, rows, free, strict=True):
        assert answer.student_answer in row.choices and answer.oracle_answer in row.choices
        # Without the early stop the first line is the same.
        assert answer.rationale == FewShotPrompt(1).parse(text)[0]


def test_people_teach_with_their_own_rationale_or_the_facts() -> None:
    asked = [
        TeacherRequest("a", "yes_no", "?", ("yes", "no"), "yes", reference_rationale="Ice floats."),
        TeacherRequest("b", "yes_no", "?", ("yes", "no"), "yes", facts=("Ice is light.", "Water is not.")),
        TeacherRequest("c", "yes_no", "?", ("yes", "no"), "yes"),
    ]
    made = build_teacher(TeacherConfig(), method="human").generate(asked)
    assert [row.rationale for row in made] == ["Ice floats.", "Ice is light. Water is not.", ""]
    assert [bool(row.error) for row in made] == [False, False, True] and made[0].method == "human"


def test_both_methods_perturb_like_wrong_and_have_no_counterfactuals() -> None:
    for method, decoding in (("human", "human"), ("few-shot", "greedy")):
        config = parse_config({"method": method, "teacher": {"decoding": {"num_samples": 3}}})
        assert (config.decoding_method, config.perturbation) == (decoding, "wrong")
        assert config.counterfactual_weight == 0
        assert config.num_draws == (1 if method == "human" else 3)
