"""Every parser of text that others wrote, with the texts that are worst for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from parsing import Build, Parser, file, run_of
from rated import item
from ray.exceptions import RayError

from cotray import errors, records
from cotray.config import DataConfig
from cotray.criteria import annotation_sheet, judgements
from cotray.criteria.annotation_key import Key
from cotray.data import answers, columns, file_formats, first_look, passages, questions, readers
from cotray.inference import openai_endpoint, student_reply
from cotray.pools import failure_causes
from cotray.probing import cues, interventions
from cotray.prompts import criteria, few_shot, mentions, qa_pairs, student, teacher_chat
from cotray.quality import pair_filter as kept
from cotray.quality import qags, surface
from cotray.records import Rationale, TrainExample
from cotray.scoring import writing as written
from cotray.serving import chat, las_window, middleware
from cotray.stages import sweep
from cotray.storage import filesystems


def num_rows(suffix: str) -> Callable[[str], int]:
    return lambda text: sum(1 for _ in readers.read_rows(DataConfig(path=str(file(text, suffix)))))


def num_pairs(text: str) -> int:
    return sum(1 for _ in passages.each_pair(str(file(text, ".json"))))


def rated(text: str) -> Any:
    return annotation_sheet.read_sheet(file(text, ".csv"), Key((item("i0", ("teacher", "greedy")),)))


def judged(text: str) -> Any:
    of = judgements.Judgements(file(text, ".jsonl"), model="m", prompt="p", parse=criteria.parse_judge)
    return [of.verdict(one) for one in of.all]


def measured(text: str) -> surface.Surface:
    row = {"id": "", "task": "yes_no", "question": text, "choices": ("yes", "no"), "answer": "yes"}
    return surface.surface(Rationale.from_row(row | {"target_answer": "no", "rationale": text}))


def question_of(text: str) -> records.QAPair:
    row = {"id": "a", "task": "open", "question": "Q?", "answer": text, "facts": text}
    return questions.parse_pair(row | {"reference_rationale": text}, DataConfig(), seed=0)


def about_one_passage(question: str, word: str = "rain ") -> Build:
    """A paragraph of n / 2 characters, and as many of questions about it."""

    def build(n: int) -> str:
        questions = ", ".join([question] * (n // 2 // len(question)))
        return f'{{\n"context": "{run_of(word)(n // 2)}", "qas": [{questions}]}}'

    return build


def with_wide_header(head: str, row: str) -> Build:
    """As many characters of columns as of rows that have only some of them."""
    return lambda n: head + ",x" * (n // 4) + "\n" + row * (n // 2 // len(row))


HEAD = ",".join(annotation_sheet.COLUMNS)
LINE = "a" * 31 + "\n"
QUESTION = '{"question": "Who was it that asked?", "answer": "rain"}'
JUDGEMENT = json.dumps({"item": "i", "model": "m", "prompt": "p", "text": "grammaticality: yes " * 9}) + "\n"
LABELS = ("grammaticality: ", "new_info:", "supports_answer", "grammaticality::::: yes ")

READERS = [
    Parser(
        file_formats,
        "JSON lines",
        num_rows(".jsonl"),
        {
            "objects": run_of('{"a":', end="\n"),
            "rows": run_of(f'{{"a": "{LINE[:20]}"}}\n'),
            "bad rows": run_of("{" + LINE),
            "NUL": run_of("\0"),
            "carriage returns": run_of("\r"),
        },
    ),
    Parser(
        file_formats,
        "JSON",
        num_rows(".json"),
        {
            "spaces in an object": run_of(" ", "{", "x"),
            "lines in an object": run_of("\n", "{", "x"),
            "array": run_of(f'["{LINE[:-1]}"],', "[", "{}]"),
            "bad array": run_of(f'["{LINE[:-1]}"],\n', "["),
        },
    ),
    Parser(
        file_formats,
        "CSV",
        num_rows(".csv"),
        {
            "columns": run_of("a,"),
            "wide header": with_wide_header("a", LINE),
            "open quote": run_of(LINE, 'a\n"'),
            "doubled quotes": run_of('""', 'a\n"'),
            "NUL": run_of("\0", "a\n"),
            "carriage returns": run_of(LINE[:-1] + "\r"),
            "commas": run_of(",", "a\n"),
            "quoted lines": run_of(f'"{LINE}"\n', "a\n"),
        },
    ),
    Parser(written, "repeats_itself", written.repeats_itself),
    Parser(readers, "row_text", lambda text: readers.row_text({"a": text, "b": [text]})),
    Parser(columns, "text_of", lambda text: columns.text_of(text, "x")),
    Parser(first_look, "_guess", lambda text: first_look._guess([{text: "x", "q": "x", "label": text}])),
    Parser(
        columns,
        "texts_of",
        lambda text: columns.texts_of(text, "x"),
        {
            "bars": run_of("aaaa|"),
            "digits": run_of("9", "["),
            "objects": run_of('[{"', "["),
            "lists": run_of('["aaaa"],', "["),
            "one number": run_of("1", "[", ".0]"),
            "a small number": run_of("0", "[0.", "1]"),
            "escapes": run_of("\\u00", '["'),
            "backslashes": run_of("\\", '["'),
            "texts": run_of('aaaa","', '["', '"]'),
            "keys": run_of('"a":1,', "{", '"b":2}'),
        },
    ),
    Parser(questions, "parse_pair", question_of),
    Parser(
        answers,
        "after hashes",
        lambda text: answers.written(text, "hashes"),
        {"calculations": run_of("<<a>>"), "open calculations": run_of("<<a"), "hashes": run_of("#")},
    ),
    Parser(
        answers,
        "boxed",
        lambda text: answers.written(text, "boxed"),
        {"boxes": run_of(r"\boxed{"), "braces": run_of("{", r"\boxed{"), "closed": run_of("{}", r"\boxed{")},
    ),
    Parser(
        records,
        "number_in",
        records.number_in,
        {
            "digits": run_of("9"),
            "thousands": run_of("999,"),
            "short groups": run_of("9,"),
            "points": run_of("9.", "a"),
            "signs": run_of("-"),
            "divided": run_of("9/"),
        },
    ),
    Parser(
        passages,
        "each_pair",
        num_pairs,
        {
            "questions": about_one_passage(QUESTION),
            "bad questions": about_one_passage('{"question": "", "answer": "Nobody knows."}'),
            "questions without a passage": about_one_passage(QUESTION, " "),
            "questions about no text": about_one_passage(QUESTION, "\\ud800"),
            "levels": run_of('{"data":', "{\n"),
            "parts below many levels": lambda n: run_of(
                '{"a": "aaaaaaaaaaaaaaaaaaaaa"},', '{"data":' * 900 + "[\n", "{}]" + "}" * 900
            )(n),
            "answers": run_of('"aaaa",', '{\n"context": "a", "question": "a", "answers": [', '"b"]}'),
            "no objects": run_of(f'"{LINE[:-1]}",', '{\n"qas": [', "[]]}"),
        },
    ),
    Parser(
        filesystems,
        "reason_of",
        lambda text: filesystems.reason_of(OSError("AWS Error " + text)),
        {
            "causes": run_of("status 4"),
            "beginnings": run_of("SLOW_DOW"),
            "marks": run_of("AWS Error"),
        },
    ),
]

SAID = [
    Parser(records, "normalized", records.normalized, {"growing letters": run_of("\u0130\u0130\u0130 ")}),
    Parser(
        mentions,
        "parse_mention",
        mentions.parse_mention,
        {"yes": run_of("yes "), "thoughts": run_of("</think>"), "marks": run_of("*", "yes")},
    ),
    Parser(
        criteria,
        "parse_judge",
        criteria.parse_judge,
        {
            **{label: run_of(label) for label in LABELS},
            "labels": run_of("\n".join(LABELS)),
            "spaces before a verdict": run_of(" ", LABELS[0], "yes"),
            "verdicts": run_of("yes ", LABELS[0]),
            "no verdict": run_of("-", LABELS[0], "y"),
            "thoughts": run_of("</think>"),
            "spaces in a label": run_of(" ", "new_info", ":"),
            "colons": run_of(":", "new_info"),
        },
    ),
    Parser(judgements, "Judgements", judged, {"judgements": run_of(JUDGEMENT)}),
    Parser(
        annotation_sheet,
        "read_sheet",
        rated,
        {
            "wide header": with_wide_header(HEAD, LINE),
            "rows": run_of(LINE, f"{HEAD}\n"),
            "empty rows": run_of("," * 31 + "\n", f"{HEAD}\n"),
            "open quote": run_of(LINE, f'{HEAD}\n"'),
            "headers": run_of("item;"),
        },
    ),
    Parser(
        annotation_sheet,
        "_is_value",
        annotation_sheet._is_value,
        {"a date": run_of(" ", "1", "May"), "marks": run_of("'")},
    ),
    Parser(annotation_sheet, "_as_shown", annotation_sheet._as_shown),
    Parser(
        student,
        "parse_student",
        lambda text: student.parse_student(text, tag="[factual]"),
        {"phrases": run_of(student.ANSWER_PHRASE), "beginnings": run_of("So the answer i")},
    ),
    Parser(
        student,
        "rationale_span",
        lambda text: student.rationale_span(TrainExample("", "factual", "", text + student.ANSWER_PHRASE)),
        {"phrases": run_of(student.ANSWER_PHRASE), "tags": run_of("[counterfactual")},
    ),
    Parser(few_shot, "parse", few_shot.FewShotPrompt(4).parse),
    Parser(
        teacher_chat,
        "explanation",
        lambda text: teacher_chat.explanation(text, "yes"),
        {
            "answers": run_of("The answer is yes. "),
            "conclusions": run_of(", so the answer is yes"),
            "beginnings": run_of(", so the answer "),
            "thoughts": run_of("</think>"),
            "stars": run_of("*"),
            "sentences": run_of("yes. "),
        },
    ),
    Parser(teacher_chat, "reasoned", teacher_chat.reasoned, {"phrases": run_of(student.ANSWER_PHRASE)}),
    Parser(
        teacher_chat,
        "named_answer",
        lambda text: teacher_chat.named_answer(
            text, records.QAPair("", "multiple_choice", "Q?", ("a b", "b a"), "a b")
        ),
        {"choices": run_of("a b"), "letters": run_of("(a) "), "stars": run_of("*")},
    ),
    Parser(
        interventions,
        "with_mistake",
        lambda text: interventions.with_mistake(text, interventions.denied, Random(0)),
        {
            "sentences": run_of("Ice is. "),
            "digits": run_of("1"),
            "stops": run_of(". "),
            "verbs": run_of("is"),
        },
    ),
    Parser(interventions, "beginnings", interventions.beginnings, {"sentences": run_of("It is. ")}),
    Parser(
        cues,
        "is_mentioned",
        lambda text: [cue.is_mentioned(text) for cue in cues.CUES.values()],
        {"beginnings": run_of("last fiv "), "names": run_of("youprofessor")},
    ),
    Parser(
        openai_endpoint,
        "is_refused",
        lambda text: openai_endpoint.is_refused("temperature", text),
        {"names": run_of("temperature"), "quotes": run_of("'temperature"), "beginnings": run_of("'temp")},
    ),
    Parser(
        qa_pairs,
        "parse_pair",
        qa_pairs.parse_pair,
        {
            "marks": run_of(" Answer:"),
            "beginnings": run_of(" Answer", "a"),
            "stops": run_of(".", "Answer: a"),
        },
    ),
    Parser(
        kept,
        "has_words of another",
        lambda text: kept.has_words(text, text[: len(text) // 2] + "b"),
        {"beginnings": run_of("a b "), "hyphens": run_of("-")},
    ),
    Parser(
        kept,
        "has_words of its own",
        lambda text: kept.has_words(text, text[: len(text) // 2]),
        {
            "inside of a word": run_of("a", "-", "-"),
            "first inside": run_of("(aa)", "b(aa)("),
            "dots": run_of(".", "b"),
        },
    ),
    Parser(
        surface,
        "surface",
        measured,
        {
            "answers": run_of("answer is "),
            "conclusions": run_of("this is therefore"),
            "sentences": run_of(". no "),
            "what goes on": run_of("that is no becaus"),
        },
    ),
    Parser(qags, "plain", qags.plain, {"beginnings": run_of("the"), "articles": run_of("the ")}),
    Parser(qags, "token_f1", lambda text: qags.token_f1(text, text)),
    Parser(qags, "clean_question", qags.clean_question, {"marks": run_of("?")}),
    Parser(
        student_reply,
        "match_choice",
        lambda text: student_reply.match_choice(text, [str(number) for number in range(1000)]),
    ),
    Parser(student_reply, "first_line", student_reply.first_line),
    Parser(student_reply, "Pieces", student_reply.Pieces().upto, {"halves": run_of("\ufffd")}),
    Parser(
        chat,
        "question_of",
        lambda text: chat.question_of(text, chat.Extra()),
        {
            "spaces in a choice": run_of(" ", "A) x", "y"),
            "spaces after a letter": run_of(" ", "A)"),
            "choices": run_of("A) x\nB) y\n"),
            "choices on a line": run_of("(A) x (B) y "),
            "spaces in a line of choices": run_of(" ", "(A) x (B)", "(B) y"),
        },
    ),
    Parser(middleware, "_ID", middleware._ID.fullmatch),
    Parser(
        las_window,
        "Window.load",
        lambda text: las_window.Window.load(9, f'{{"num_seen": 1}}\n{text}'.encode("utf-8", "replace")),
    ),
]

FAILED = [
    Parser(
        errors,
        "cotray_error",
        lambda text: errors.cotray_error(Exception(text)),
        {
            "beginnings": run_of("cotray.errors."),
            "a long name": run_of("a", "cotray.errors."),
            "names": run_of("cotray.errors.DataError:"),
        },
    ),
    Parser(
        sweep,
        "_reason",
        lambda text: sweep._reason(RayError(text)),
        {
            "names": run_of("Error"),
            "lines": run_of("aaaa.Error\n"),
            "a long name": run_of("a.", "\n"),
        },
    ),
    Parser(failure_causes, "key_of", failure_causes.key_of, {"numbers": run_of("1a")}),
]

PARSERS = [*READERS, *SAID, *FAILED]
