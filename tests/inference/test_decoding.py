"""What a request asks of decoding: each row of a batch has its own, and gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from splitmix import splitmix

from cotray.config import ScoringConfig
from cotray.inference.decoding import GREEDY, Decoding
from cotray.inference.student_reply import Pieces
from cotray.inference.token_choice import nucleus
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair, Reply
from cotray.scoring.student import Student
from cotray.seeds import digest

LIMIT, RUN_SEED = 16, 5
PAIRS = [
    QAPair("q0", "yes_no", "Is ice cold?", ("yes", "no"), ""),
    QAPair("q1", "multiple_choice", "Where does rain come from?", ("clouds", "the deep sea"), ""),
    QAPair("q2", "open", "What is rain, which falls on a dry stone for a week?", (), ""),
]
DRAWN = Decoding(temperature=0.8, top_p=0.9)


def student_of(model: str) -> Student:
    config = ScoringConfig(max_new_tokens=LIMIT)
    return Student(model, config=config, prompt=trained_prompt("on"), seed=RUN_SEED, method="")


@pytest.fixture(scope="module")
def llama() -> Student:
    return student_of("random:llama")


def greedy_ids(student: Student, pair: QAPair) -> list[int]:
    """By transformers' own greedy decoding, of one row."""
    ids = student.tokenizer(student.prompt.source(pair), return_tensors="pt").input_ids
    generate: Any = student.model.generate
    row = generate(ids, do_sample=False, max_new_tokens=LIMIT, pad_token_id=0)
    return row[0, ids.shape[1] :].tolist()


def own_text(reply: Reply) -> str:
    return reply.text.removesuffix(reply.added)


def test_a_drawn_text_is_that_of_a_loop_with_a_nucleus_and_random_numbers_of_its_own(llama: Student) -> None:
    """One row, no cache, numpy: tokens sorted by probability until they reach top_p, then a CDF by id."""
    decoding = Decoding(temperature=0.7, top_p=0.6, seed=11, sample=2)
    source = "[factual] Is ice cold?\n"
    seed = digest(11, source, "sample", "2") >> 1
    ids, drawn = llama.tokenizer(source).input_ids, list[int]()
    for step in range(LIMIT):
        with torch.no_grad():
            logits = llama.model(torch.tensor([ids + drawn])).logits[0, -1].double().numpy() / 0.7
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        kept, reached = list[int](), 0.0
        for token in np.argsort(-shares, kind="stable"):
            kept.append(int(token))
            reached += shares[token]
            if reached >= 0.6:
                break
        kept.sort()
        cdf = np.cumsum(shares[kept]) / shares[kept].sum()
        drawn.append(kept[int(np.searchsorted(cdf, splitmix(seed, step), side="right"))])
        if drawn[-1] == llama.tokenizer.eos_token_id:
            break
    (reply,) = llama.respond([PAIRS[0]], [None], [decoding])
    assert own_text(reply) == str(llama.tokenizer.decode(drawn, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("model", ["random:llama", "random:t5"])
def test_every_row_of_a_batch_has_what_it_would_have_alone(model: str) -> None:
    student = student_of(model)
    plain = [student.respond([pair], [None])[0] for pair in PAIRS]
    letter = own_text(plain[0])[3]
    asked = [
        *((pair, GREEDY) for pair in PAIRS),
        *((pair, DRAWN) for pair in PAIRS),
        (PAIRS[0], replace(DRAWN, seed=3, num_logprobs=2)),
        (PAIRS[0], Decoding(stop=(letter,))),
        (PAIRS[1], Decoding(max_tokens=5, num_logprobs=0)),
        (PAIRS[2], replace(DRAWN, sample=1, max_tokens=7)),
    ]
    alone = [student.respond([pair], [None], [decoding])[0] for pair, decoding in asked]
    order = [7, 3, 9, 0, 5, 8, 1, 6, 4, 2]
    together = student.respond(
        [asked[i][0] for i in order], [None] * len(order), [asked[i][1] for i in order]
    )
    for i, reply in zip(order, together, strict=True):
        assert (reply.text, reply.answer, reply.num_tokens, reply.finish_reason) == (
            alone[i].text,
            alone[i].answer,
            alone[i].num_tokens,
            alone[i].finish_reason,
        ), i
        assert [token.text for token in reply.tokens] == [token.text for token in alone[i].tokens]
    assert alone[:3] == plain, "nothing asked is greedy decoding"
    assert len({reply.text for reply in alone[:7]}) == 7, "seeds, questions and temperature matter"


def test_max_tokens_ends_the_text_and_nothing_is_added(llama: Student) -> None:
    for most in (1, 4, LIMIT - 1):
        (reply,) = llama.respond([PAIRS[0]], [None], [Decoding(max_tokens=most)])
        ids = greedy_ids(llama, PAIRS[0])[:most]
        assert reply.text == str(llama.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        assert (reply.num_tokens, reply.finish_reason, reply.added) == (most, "length", "")
        assert reply.is_cut
    assert reply.answer in PAIRS[0].choices and not reply.wrote_answer


def test_more_max_tokens_than_the_student_may_write_change_nothing(llama: Student) -> None:
    assert llama.respond(PAIRS, [None] * 3, [Decoding(max_tokens=10_000)] * 3) == llama.respond(
        PAIRS, [None] * 3
    )


def test_the_text_ends_before_the_first_stop_string_and_its_tokens_are_counted(llama: Student) -> None:
    ids = greedy_ids(llama, PAIRS[1])
    texts = [str(llama.tokenizer.decode(ids[:n], skip_special_tokens=True)) for n in range(1, LIMIT + 1)]
    stops = ("\x00never", texts[-1][4:6])
    num_tokens = next(n for n, text in enumerate(texts, 1) if stops[1] in text)
    (reply,) = llama.respond([PAIRS[1]], [None], [Decoding(stop=stops)])
    assert reply.text == texts[-1].partition(stops[1])[0].strip()
    assert (reply.num_tokens, reply.finish_reason, reply.added) == (num_tokens, "stop", "")
    assert reply.is_cut and num_tokens < LIMIT


def test_a_text_without_the_stop_string_is_that_without_any(llama: Student) -> None:
    assert llama.respond(PAIRS, [None] * 3, [Decoding(stop=("\x00never",))] * 3) == llama.respond(
        PAIRS, [None] * 3
    )


def test_log_probabilities_are_those_of_a_pass_over_the_whole_text_before_any_temperature(
    llama: Student,
) -> None:
    before, ids = llama.tokenizer("[factual] Is ice cold?\n").input_ids, greedy_ids(llama, PAIRS[0])
    with torch.inference_mode():
        logprobs_SV = llama.model(torch.tensor([before + ids])).logits[0].float().log_softmax(-1)
    (reply,) = llama.respond([PAIRS[0]], [None], [Decoding(num_logprobs=3)])
    for token, id, row in zip(reply.tokens, ids, logprobs_SV[len(before) - 1 : -1], strict=True):
        assert token.logprob == pytest.approx(row[id].item(), abs=1e-4)
        assert [value for _, value in token.likeliest] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert token.likeliest[0] == (token.text, token.logprob), "greedy takes the likeliest"
    hot = Decoding(temperature=2, seed=1, num_logprobs=3)
    (drawn,) = llama.respond([PAIRS[0]], [None], [hot])
    assert dict(drawn.tokens[0].likeliest) == pytest.approx(dict(reply.tokens[0].likeliest))
    assert any(token.logprob < token.likeliest[2][1] for token in drawn.tokens)


def test_tokens_make_up_the_text_of_every_kind_of_student(llama: Student) -> None:
    for student in (llama, student_of("random:t5")):
        for reply in student.respond(PAIRS, [None] * 3, [Decoding(num_logprobs=0)] * 3):
            assert "".join(token.text for token in reply.tokens).strip() == own_text(reply)


def test_what_is_written_again_for_an_open_answer_is_counted(llama: Student) -> None:
    (reply,) = llama.respond([PAIRS[2]], [None])
    source = llama.prompt.source(PAIRS[2]) + llama.prompt.prefix(reply.rationale, is_encoder_decoder=False)
    ids = llama.tokenizer(source, return_tensors="pt").input_ids
    generate: Any = llama.model.generate
    again = generate(ids, do_sample=False, max_new_tokens=16, pad_token_id=0).shape[1] - ids.shape[1]
    assert not reply.wrote_answer and reply.num_tokens == len(greedy_ids(llama, PAIRS[2])) + again


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, [1]), (0.4, [1]), (0.41, [1, 3]), (0.75, [0, 1, 3]), (1.0, [0, 1, 2, 3])]
)
def test_a_nucleus_has_the_fewest_tokens_that_reach_top_p(top_p: float, kept: list[int]) -> None:
    logits = torch.log(torch.tensor([[0.2, 0.4, 0.1, 0.3]]))
    values = nucleus(logits, torch.tensor([top_p], dtype=torch.float64))[0]
    assert values.isfinite().nonzero().flatten().tolist() == kept
    assert torch.equal(values[kept], logits[0, kept])


def test_of_equally_likely_tokens_the_first_ones_are_kept() -> None:
    values = nucleus(torch.zeros(1, 4), torch.tensor([0.5]))[0]
    assert values.isfinite().tolist() == [True, True, False, False]


def test_pieces_never_show_the_beginning_of_a_stop_string() -> None:
    text, stops = "Ice is wet. So it END is", ("END", "is cold")
    pieces = Pieces(Decoding(stop=stops))
    shown = [pieces.upto(text[:n]) for n in range(1, len(text) + 1)]
    assert "".join([*shown, pieces.rest("Ice is wet. So it")]) == "Ice is wet. So it"
    assert all("E" not in piece for piece in shown) and sum(map(bool, shown)) > 5
