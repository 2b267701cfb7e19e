from __future__ import annotations

import json
from importlib import resources

import pytest

from cotray.config import DataConfig
from cotray.data.layouts import layout_of
from cotray.data.questions import parse_pair
from cotray.errors import DataError
from cotray.records import QAPair

OWN = {"id": "q1", "question": "Which is a fruit?", "choices": ["fig", "oak", "fern"], "answer": "fig"}
STRATEGYQA = {"qid": "s1", "question": "Can a whale fly?", "answer": False, "facts": ["Whales swim."]}
CREAK = {"ex_id": "c1", "sentence": "Whales fly.", "explanation": "Whales swim.", "label": "false"}
COMMONSENSEQA = {
    "id": "k1",
    "question": "Where does a fish live?",
    "question_concept": "fish",
    "choices": {"label": ["A", "B", "C"], "text": ["tree", "pond", "sky"]},
    "answerKey": "B",
}
QASC = {
    "id": "x1",
    "question": {
        "stem": "What do plants make?",
        "choices": [{"label": "A", "text": "sugar"}, {"label": "B", "text": "steel"}],
    },
    "answerKey": "A",
    "fact1": "Plants make food.",
    "fact2": "Food holds sugar.",
    "combinedfact": "Plants make sugar.",
}


def parse(row: dict, *, seed: int = 42, **data) -> QAPair:
    return parse_pair(row, DataConfig(**data), seed=seed)


def reason(row: dict, **data) -> str:
    with pytest.raises(DataError) as caught:
        parse(row, **data)
    return str(caught.value)


def test_own_columns_become_the_record():
    row = OWN | {
        "task": "multiple_choice",
        "split": "dev",
        "reference_rationale": "Figs grow on trees.",
        "facts": ["A fig is a fruit.", ""],
    }
    assert parse(row) == QAPair(
        id="q1",
        task="multiple_choice",
        question="Which is a fruit?",
        choices=("fig", "oak", "fern"),
        answer="fig",
        split="dev",
        reference_rationale="Figs grow on trees.",
        facts=("A fig is a fruit.",),
    )


def test_strategyqa_booleans_become_yes_and_no():
    pair = parse(STRATEGYQA)
    assert (pair.id, pair.task, pair.choices, pair.answer) == ("s1", "yes_no", ("yes", "no"), "no")
    assert pair.facts == ("Whales swim.",)
    assert parse(STRATEGYQA | {"answer": True}).answer == "yes"
    assert parse(STRATEGYQA | {"answer": "True"}).answer == "yes"  # as CSV has it


def test_creak_labels_are_strings_and_its_explanation_is_the_reference():
    pair = parse(CREAK)
    assert (pair.id, pair.task, pair.choices, pair.answer) == ("c1", "true_false", ("true", "false"), "false")
    assert (pair.question, pair.reference_rationale) == ("Whales fly.", "Whales swim.")
    assert parse(CREAK | {"label": "true"}).answer == "true"


def test_commonsenseqa_answers_with_the_text_not_the_letter():
    pair = parse(COMMONSENSEQA)
    assert (pair.task, pair.choices, pair.answer) == ("multiple_choice", ("tree", "pond", "sky"), "pond")


def test_commonsenseqa_choices_may_be_a_list_inside_the_question():
    choices = [{"label": "A", "text": "tree"}, {"label": "B", "text": "pond"}]
    row = {"id": "k2", "question": {"stem": "Where does a fish live?", "choices": choices}, "answerKey": "B"}
    pair = parse(row)
    assert (pair.question, pair.choices, pair.answer) == ("Where does a fish live?", ("tree", "pond"), "pond")
    beside = {"id": "k2", "question": "Where does a fish live?", "choices": choices, "answerKey": "b"}
    assert parse(beside) == pair


def test_commonsenseqa_choices_may_be_a_json_string():
    assert (
        parse(COMMONSENSEQA | {"choices": json.dumps(COMMONSENSEQA["choices"])}).answer
        == parse(COMMONSENSEQA).answer
    )


def test_qasc_brings_its_two_facts():
    pair = parse(QASC)
    assert (pair.choices, pair.answer) == (("sugar", "steel"), "sugar")
    assert pair.facts == ("Plants make food.", "Food holds sugar.")


def test_two_choices_of_multiple_choice_do_not_become_yes_and_no():
    """SCOTT's script sends a choice list of length 2 into its yes/no branch."""
    row = {"id": "q", "question": "Hot or cold?", "choices": ["hot", "cold"], "answer": 1}
    assert (parse(row).task, parse(row).answer) == ("multiple_choice", "cold")


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        (OWN, "cotray"),
        (OWN | {"task": "multiple_choice", "answerKey": "A"}, "cotray"),
        ({"id": "q", "answer": "yes"}, "cotray"),
        (STRATEGYQA, "strategyqa"),
        (CREAK, "creak"),
        (COMMONSENSEQA, "commonsenseqa"),
        (QASC, "qasc_jsonl"),
    ],
)
def test_the_layout_is_recognised_from_the_columns(row, layout):
    assert layout_of(row) == layout


def test_a_named_format_wins_over_the_columns():
    row = STRATEGYQA | {"id": "own", "answer": "yes"}
    assert parse(row, format="cotray").id == "own"


@pytest.mark.parametrize(
    ("choices", "answer", "task"),
    [
        (["no", "yes"], "yes", "yes_no"),
        (["True", "False"], "true", "true_false"),
        (["red", "blue"], "red", "multiple_choice"),
        (None, "No", "yes_no"),
        (None, "false", "true_false"),
        (None, True, "yes_no"),
        (None, "Paris", "open"),
        (None, 42, "open"),
    ],
)
def test_an_omitted_task_is_inferred(choices, answer, task):
    assert parse({"id": "q", "question": "Well?", "choices": choices, "answer": answer}).task == task


@pytest.mark.parametrize(
    ("task", "choices", "answer", "gold"),
    [
        ("yes_no", None, 1, "yes"),  # SCOTT: 1 is yes and true, though "yes" is the choice of index 0
        ("yes_no", None, 0, "no"),
        ("true_false", None, 1, "true"),
        ("true_false", None, "0", "false"),
        ("true_false", None, False, "false"),
        ("yes_no", ["no", "yes"], 1, "yes"),
        ("multiple_choice", ["fig", "oak", "fern"], 2, "fern"),
        ("multiple_choice", ["fig", "oak", "fern"], "2", "fern"),
        ("multiple_choice", ["fig", "oak", "fern"], " OAK ", "oak"),
        ("multiple_choice", ["1", "2", "3"], "1", "1"),
        ("multiple_choice", [1, 2, 3], "3", "3"),
        ("multiple_choice", "fig|oak", "oak", "oak"),
        ("multiple_choice", '["fig", "a|b"]', "a|b", "a|b"),
        ("open", None, "  New   York ", "New York"),
        ("open", "", 1, "1"),
    ],
)
def test_the_answer_may_be_text_index_or_truth_value(task, choices, answer, gold):
    row = {"id": "q", "task": task, "question": "Well?", "choices": choices, "answer": answer}
    assert parse(row).answer == gold


def test_an_answer_that_may_mean_two_choices_is_refused():
    """Index 0 of (yes, no) is yes, but SCOTT's 0 is no: guessing would turn labels around unseen."""
    ambiguous = "answer is both an index and a value; write it as the text of a choice, or set data.answer_is"
    row = {"id": "q", "question": "Well?", "choices": ["yes", "no"], "answer": 0}
    assert reason(row) == ambiguous
    assert reason(OWN | {"choices": ["1", "2", "3"], "answer": 1}) == ambiguous
    assert reason({"id": "q", "question": "Well?", "answer": 1}) == (
        "answer 0 or 1 without choices may mean anything; set data.task"
    )


def test_white_space_is_cleaned_and_case_is_kept():
    pair = parse(
        OWN | {"id": " q1\n", "question": " Which\tis a\nFRUIT? ", "choices": ["fig ", "Oak", "fern"]}
    )
    assert (pair.id, pair.question, pair.choices[1]) == ("q1", "Which is a FRUIT?", "Oak")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answer": "pear"}, "no answer among the choices"),
        ({"answer": 3}, "no answer among the choices"),
        ({"answer": -1}, "no answer among the choices"),
        ({"answer": True}, "no answer among the choices"),
        ({"answer": None}, "missing column 'answer'"),
        ({"answer": " "}, "empty answer"),
        ({"answer": 1.5}, "column 'answer' is not text"),
        ({"id": "x" * 201}, "id is longer than 200 characters"),
        ({"id": "\ud800"}, "column 'id' is not text"),
        ({"question": None}, "missing column 'question'"),
        ({"question": " \n"}, "empty question"),
        ({"question": 3}, "column 'question' is not text"),
        ({"question": "a\0b"}, "column 'question' is not text"),
        ({"question": b"bytes"}, "column 'question' is not text"),
        ({"question": "x" * 2000}, "question longer than data.max_question_chars, choices included"),
        ({"choices": ["fig"]}, "one choice only"),
        ({"choices": ["fig", "FIG", "Fig "]}, "one choice only"),
        ({"choices": ["fig", ""]}, "empty choices"),
        ({"choices": ["fig", None]}, "column 'choices' is not text"),
        ({"choices": 7}, "column 'choices' is not a list"),
        ({"choices": "['fig', 'oak']"}, "column 'choices' is neither JSON nor separated by '|'"),
        ({"choices": [f"fig{n}" for n in range(27)], "answer": "fig3"}, "more than 26 choices"),
        ({"task": "multiple_choice", "choices": None}, "missing column 'choices'"),
        ({"task": "open"}, "an open question has choices"),
        ({"task": "yes_no"}, "choices of a yes_no question are not yes and no"),
        ({"task": "essay"}, "unknown task"),
        ({"task": ["open"]}, "unknown task"),
        ({"split": "holdout"}, "unknown split"),
        ({"split": 1}, "unknown split"),
        ({"facts": 5}, "column 'facts' is not a list"),
        ({"reference_rationale": {"a": "why"}}, "column 'rationale' is not text"),
    ],
)
def test_an_unusable_row_says_why(change, expected):
    assert reason(OWN | change) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"Frage": "Wo?", "Antwort": "da"},
            "unknown layout; say in data.columns which column is the question and which the answer",
        ),
        (STRATEGYQA | {"answer": None}, "missing column 'answer'"),
        (STRATEGYQA | {"answer": "maybe"}, "no answer among the choices"),
        (CREAK | {"label": None}, "missing column 'label'"),  # CREAK's test split is unlabelled
        (CREAK | {"sentence": ""}, "empty question"),
        (COMMONSENSEQA | {"answerKey": ""}, "empty answer"),  # as CommonsenseQA's test split
        (COMMONSENSEQA | {"answerKey": "D"}, "no answer among the choices"),
        (COMMONSENSEQA | {"choices": {"tree": "pond"}}, "choices are not labels and texts"),
        (COMMONSENSEQA | {"choices": {"label": ["A"], "text": []}}, "choices are not labels and texts"),
        (
            COMMONSENSEQA | {"choices": {"label": ["A", "a"], "text": ["x", "y"]}, "answerKey": "A"},
            "duplicate labels of choices",
        ),
        ({"question": "Who?", "choices": ["a", "b"], "answerKey": "C"}, "no answer among the choices"),
    ],
)
def test_an_unusable_row_of_a_known_data_set_says_why(row, expected):
    assert reason(row) == expected


def test_length_counts_the_choices():
    # 17 characters of question, 3 + 3 + 4 of choices
    assert parse(OWN, max_question_chars=27).id == "q1"
    assert "max_question_chars" in reason(OWN, max_question_chars=26)


@pytest.mark.parametrize(("name", "split"), [("validation", "dev"), ("Test", "test"), ("train", "train")])
def test_a_row_keeps_its_own_split(name, split):
    assert parse(OWN | {"split": name}).split == split


def test_splits_are_drawn_by_id_in_the_configured_shares():
    splits = [parse(OWN | {"id": f"q{n}"}).split for n in range(4000)]
    assert abs(splits.count("test") / 4000 - 0.25) < 0.03
    assert abs(splits.count("dev") / 4000 - 0.15) < 0.03
    assert splits[::-1] == [parse(OWN | {"id": f"q{n}"}).split for n in reversed(range(4000))]
    assert parse(OWN, test_fraction=0, dev_fraction=0).split == "train"


@pytest.mark.parametrize(
    ("name", "task", "num_choices"),
    [
        ("yes_no", "yes_no", 2),
        ("true_false", "true_false", 2),
        ("five_choice", "multiple_choice", 5),
        ("eight_choice", "multiple_choice", 8),
    ],
)
def test_the_sample_has_enough_of_each_kind(name, task, num_choices):
    text = resources.files("cotray.data").joinpath("sample/questions.jsonl").read_text("utf-8")
    pairs = [parse(json.loads(line)) for line in text.splitlines() if f'"id": "{name}-' in line]
    assert len({pair.id for pair in pairs}) == len(pairs) >= 60
    assert {(pair.task, len(pair.choices)) for pair in pairs} == {(task, num_choices)}
    splits = [pair.split for pair in pairs]
    assert (splits.count("train"), splits.count("dev"), splits.count("test")) == (44, 8, 12)
    assert all(pair.facts and pair.reference_rationale and pair.answer in pair.choices for pair in pairs)
    if num_choices == 2:
        assert len({sum(pair.answer == choice for pair in pairs) for choice in pairs[0].choices}) == 1
