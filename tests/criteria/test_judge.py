"""The judge against a real HTTP server: retries, raw answers, what cannot be read, the cost cap, resuming."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import PlainTextResponse, Response
from openai_server import completion, openai_server, refusal
from rated import export_folder
from reports import page_with
from test_criteria import answered, fill

from cotray.commands.annotate import main as annotate
from cotray.commands.judge import main
from cotray.criteria.annotation_key import Key
from cotray.inference.cost_cap import CostCap
from cotray.prompts.criteria import CRITERIA, Rating, judge_messages, parse_judge

GOOD = "grammaticality: yes\nnew_info: yes\nsupports_answer: yes"
VACUOUS = "grammaticality: yes\nnew_info: no\nsupports_answer: n/a"
PRICES = ["--price-in", "10000", "--price-out", "100000"]
"""100 tokens read and 10 written cost 1 + 1."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_folder(tmp_path)


def judge(folder: Path, base_url: str, *options: str, concurrency: int = 1) -> int:
    out = ["--out", str(folder / "j"), "--key", str(folder / "a/key.json")]
    asked = ["--base-url", base_url, "--model", "m", f"--concurrency={concurrency}"]
    return main(["-c", str(folder / "c.yaml"), *asked, *out, *options])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "j/judgements.jsonl").read_text().splitlines()]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/demo/criteria.json").read_text())


def by_text(body: dict[str, Any], _: int) -> Response:
    """Greedy teachers say nothing new, contrastive ones do; students are a riddle."""
    said = body["messages"][-1]["content"]
    return completion("I cannot tell." if "sings" in said else VACUOUS if "Plainly" in said else GOOD)


def test_busy_then_broken_then_well_endpoint_loses_nothing(folder: Path, monkeypatch) -> None:
    def answering(body: dict[str, Any], n: int) -> Response:
        return [refusal(429), refusal(503), refusal(500)][n] if n < 3 else by_text(body, n)

    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with openai_server(answering) as server:
        assert judge(folder, server.base_url, concurrency=4) == 0
    assert len(server.bodies) == 12 + 3
    assert set(server.keys) == {"Bearer sesame"}
    assert server.bodies[0]["model"] == "m" and server.bodies[0]["temperature"] == 0
    assert len({line["item"] for line in lines(folder)}) == 12
    rates = {(r["method"], r["measure"]): r["rate"] for r in results(folder)["judge"]["rates"]}
    assert rates["greedy", "new_info"] == 0 and rates["contrast-wrong", "supports_answer"] == 1


def test_unparsable_answers_are_counted_and_neither_yes_nor_no(folder: Path) -> None:
    with openai_server(by_text) as server:
        assert judge(folder, server.base_url) == 0
    said = results(folder)["judge"]
    assert (said["num_items"], said["num_judged"], said["num_unparsable"]) == (12, 12, 4)
    student = [rate for rate in said["rates"] if rate["writer"] == "student"]
    assert all(rate["rate"] is None and rate["num_verdicts"] == 0 for rate in student)
    assert Counter(line["text"] for line in lines(folder))["I cannot tell."] == 4


def test_bodies_that_are_no_completion_are_asked_again_and_charged(folder: Path) -> None:
    def answering(body: dict[str, Any], n: int) -> Response:
        if n < 2:
            wrong = (
                PlainTextResponse("<html>", media_type="text/html"),
                Response("{", media_type="application/json"),
            )
            return wrong[n]
        return by_text(body, n)

    with openai_server(answering) as server:
        assert judge(folder, server.base_url, "--price-in=1", "--price-out=1") == 0
    broken, right = lines(folder)[:2], lines(folder)[2:]
    assert all("not a completion" in line["error"] for line in broken) and len(right) == 12
    most = sum(len(message["content"].encode()) for message in server.bodies[0]["messages"]) + 64 + 64
    assert results(folder)["judge"]["cost"] == pytest.approx((2 * most + 12 * 110) / 1e6)


def test_cost_cap_holds_where_every_reply_is_as_dear_as_it_can_be(folder: Path) -> None:
    most_in = max_bytes(folder) + 64
    most = 0.01 * most_in + 0.1 * 64
    with openai_server(lambda *_: completion(GOOD, tokens=(most_in, 64))) as server:
        assert judge(folder, server.base_url, *PRICES, f"--max-cost={2.5 * most}", concurrency=8) == 1
    assert len(server.bodies) == 2


def test_capped_judge_says_what_is_done_and_goes_on_with_more_money(folder: Path, capsys) -> None:
    """An item costs 2, and is asked while the most that it can cost fits."""
    cap = f"--max-cost={0.01 * (1 + max_bytes(folder) + 64) + 0.1 * 64 + 6}"
    with openai_server(by_text) as server:
        assert judge(folder, server.base_url, *PRICES, cap) == 1
        # The fourth is the last for certain; items of fewer bytes leave a little for more.
        num_asked = len(server.bodies)
        assert 4 <= num_asked < 12
        assert f"{num_asked} of 12 items are judged for {2 * num_asked}" in capsys.readouterr().err
        assert results(folder)["judge"]["num_judged"] == num_asked
        assert judge(folder, server.base_url, *PRICES, cap) == 1
        assert len(server.bodies) == num_asked
        assert judge(folder, server.base_url, *PRICES, "--max-cost=1000") == 0
        assert len(server.bodies) == 12
    assert results(folder)["judge"]["cost"] == pytest.approx(24)


def max_bytes(folder: Path) -> int:
    items = json.loads((folder / "a/key.json").read_text())["items"]
    asked = [judge_messages(i["question"], i["choices"], i["answer"], i["rationale"]) for i in items]
    return max(sum(len(message["content"].encode()) for message in messages) for messages in asked)


def test_missing_usage_is_charged_at_the_most_it_can_be(folder: Path) -> None:
    with openai_server(lambda *_: completion(GOOD, tokens=None)) as server:
        assert judge(folder, server.base_url, "--price-in=0", "--price-out=1e6") == 0
    assert results(folder)["judge"]["cost"] == 12 * 64


def test_money_set_aside_cannot_be_set_aside_again() -> None:
    purse = CostCap(price_in=1e6, price_out=2e6, limit=10)
    assert purse.cost(2, 3) == 8
    assert purse.reserve(8) and not purse.reserve(3)
    purse.settle(8, 1.5)
    assert purse.reserve(8.5) and not purse.reserve(0.1)


def test_killed_judge_goes_on_with_what_is_not_answered(folder: Path) -> None:
    with openai_server(by_text) as server:
        assert judge(folder, server.base_url) == 0
        path = folder / "j/judgements.jsonl"
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:5]) + whole[5][:20])
        assert judge(folder, server.base_url) == 0
        assert len(server.bodies) == 12 + 7
    assert sorted(line["item"] for line in lines(folder)) == sorted(
        json.loads(line)["item"] for line in whole
    )


def test_other_models_answers_are_not_mixed(folder: Path, capsys) -> None:
    with openai_server(by_text) as server:
        assert judge(folder, server.base_url) == 0
        assert judge(folder, server.base_url, "--model=n") == 2
    assert "has judgements of model m; choose another --out folder" in capsys.readouterr().err


def test_refused_key_is_one_line_at_once(folder: Path, capsys) -> None:
    with openai_server(lambda *_: refusal(401, message="wrong key")) as server:
        assert judge(folder, server.base_url, concurrency=1) == 2
    error = capsys.readouterr().err
    assert len(server.bodies) == 1
    assert len(error.splitlines()) == 1 and "401" in error and "wrong key" in error


def test_endpoint_that_stays_busy_ends_with_exit_code_1(folder: Path, capsys) -> None:
    with openai_server(lambda *_: refusal(429, message="slow down")) as server:
        assert judge(folder, server.base_url, concurrency=12) == 1
    assert len(server.bodies) == 12 * 6
    assert "12 of 12 items failed 6 times, the last with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-cost=1"], "--max-cost needs --price-in and --price-out"),
        (["--price-in=1"], "they need each other"),
        (["--concurrency=0"], "--concurrency 0: must be above 0"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, capsys, options: list[str], message: str) -> None:
    assert main(["-c", "c.yaml", "--base-url", "u", "--model", "m", "--out", "o", *options]) == 2
    assert message in capsys.readouterr().err


def test_without_a_key_items_are_drawn_as_the_export_draws_them(folder: Path, capsys) -> None:
    with openai_server(by_text) as server:
        asked = ["--base-url", server.base_url, "--model", "m", "--out", str(folder / "own")]
        assert main(["-c", str(folder / "c.yaml"), *asked, "--rationales=4"]) == 0
        assert (folder / "own/key.json").read_text() == (folder / "a/key.json").read_text()
        assert main(["-c", str(folder / "c.yaml"), *asked, "--rationales=3"]) == 2
    assert "has other rationales than are drawn now; choose another --out" in capsys.readouterr().err


def test_own_key_of_bare_ids_still_names_the_rationales_that_were_judged(folder: Path) -> None:
    own = folder / "j"
    with openai_server(by_text) as server:
        asked = ["--base-url", server.base_url, "--model", "m", "--out", str(own), "--rationales=4"]
        assert main(["-c", str(folder / "c.yaml"), *asked]) == 0
        key = Key.read(own / "key.json")
        (own / "key.json").unlink()
        Key(tuple(replace(item, id=item.id[1:]) for item in key.items)).write(own / "key.json")
        judged = own / "judgements.jsonl"
        judged.write_text(judged.read_text().replace('"item": "i', '"item": "'))
        assert main(["-c", str(folder / "c.yaml"), *asked]) == 0
    assert len(server.bodies) == 12 and results(folder)["judge"]["num_judged"] == 12


def test_agreement_with_people_is_there_when_both_are_whoever_comes_first(folder: Path) -> None:
    """People call everything new and relevant; the judge agrees on the contrastive 4 of its 8 ratings."""
    sheets = [fill(folder / f"a/annotator-{n}.csv", answered()) for n in (1, 2)]
    import_ = ["import", "-c", str(folder / "c.yaml"), "--key", str(folder / "a/key.json"), *map(str, sheets)]
    with openai_server(by_text) as server:
        assert annotate(import_) == 0 and "agreement" not in results(folder)
        assert judge(folder, server.base_url) == 0
        after_judge = results(folder)["agreement"]
        (folder / "runs/demo/criteria.json").unlink()
        assert judge(folder, server.base_url) == 0 and annotate(import_) == 0
        assert results(folder)["agreement"] == after_judge
    # Two persons, 8 items that the judge's answer could be read for, 4 of them equal. With one person
    # De = 2·4·12 / (16·15) and Do = 8/16.
    assert after_judge["new_info"]["raw"] == 0.5 and after_judge["new_info"]["num_pairs"] == 16
    assert after_judge["new_info"]["alpha"] == pytest.approx(1 - 0.5 / (96 / 240))
    assert "between judge and people: alpha" in page_with(results(folder))
    assert after_judge["supports_given_new"] == {"alpha": None, "raw": 1.0, "num_pairs": 8}


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        (GOOD, Rating(True, True, True)),
        (VACUOUS, Rating(True, False, None)),
        ("**Grammaticality:** Yes.\n- New info: YES\n- Supports answer = no", Rating(True, True, False)),
        (
            '{"grammaticality": "no",\n "new_info": "no",\n "supports_answer": "no"}',
            Rating(False, False, None),
        ),
        (f"<think>\ngrammaticality: no\n</think>\n{GOOD}", Rating(True, True, True)),
        ("grammaticality: yes\nnew_info: yes", None),
        ("grammaticality: yes\nnew_info: yes\nsupports_answer: n/a", None),
        ('{"grammaticality": "yes", "new_info": "yes", "supports_answer": "no"}', Rating(True, True, False)),
        (
            "Grammaticality: no, no verb.\nNew information: no\nSupports the answer: n/a",
            Rating(False, False, None),
        ),
        (f"{GOOD}\ngrammaticality: no", None),
        ("grammaticality: yes or no\nnew_info: yes or no\nsupports_answer: yes or no, or n/a", None),
        ("grammaticality: yes\nnew_info: perhaps yes\nsupports_answer: yes", None),
        ("yes yes yes", None),
        ("", None),
    ],
)
def test_reply_is_read_in_full_or_not_at_all(text: str, rating: Rating | None) -> None:
    assert parse_judge(text) == rating


def test_judge_is_asked_the_peoples_questions_about_the_item_alone() -> None:
    (message,) = judge_messages("Q?", ("a", "b"), "a", "Since.")
    item = "Question: Q?\nChoices: a / b\nAnswer: a\nExplanation: Since.\n\nYour three lines:"
    assert message["role"] == "user" and message["content"].endswith(f"\n\n{item}")
    assert all(criterion.question in message["content"] for criterion in CRITERIA)
