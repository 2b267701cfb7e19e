"""The student at work: it writes a rationale and an answer, and is asked again under interventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cotray.config import ScoringConfig
from cotray.inference.decoding import GREEDY, Decoding
from cotray.inference.generation import generate_ids, generate_texts
from cotray.inference.likelihood import Context, candidate_logprobs, likeliest
from cotray.inference.student_reply import (
    MAX_ANSWER_TOKENS,
    Written,
    check_length,
    free_answer,
    make_reply,
    match_answer,
    read_tokens,
)
from cotray.inference.token_choice import TokenChoice, row_ends
from cotray.models.loading import load_for_inference
from cotray.prompts.student import StudentPrompt
from cotray.records import QAPair, Rationale, Reply, StudentAnswer
from cotray.scoring.probes import Prober
from cotray.seeds import seeded

NUM_WRITTEN_TOGETHER = 32
"""Free answers, each of a few tokens, that are written in one batch."""


class Student:
    """A trained student in Hugging Face format, or a model that is prompted like one."""

    def __init__(
        self,
        model: str,
        *,
        revision: str = "main",
        dtype: str = "auto",
        config: ScoringConfig,
        prompt: StudentPrompt,
        seed: int,
        method: str,
        prober: Prober | None = None,
    ) -> None:
        self.prober = prober
        self.model, self.tokenizer = load_for_inference(model, revision=revision, dtype=dtype)
        self.config, self.prompt, self.seed, self.method = config, prompt, seed, method

    def answer(self, rationales: Sequence[Rationale]) -> list[StudentAnswer]:
        """One StudentAnswer per factual rationale; test rows also get the interventions and the probes.

        The teacher's rationale is used by the oracle intervention alone.
        """
        written, answers = self._explain(rationales)
        tested = [i for i, r in enumerate(rationales) if r.split == "test"]
        own = [written[i][0] for i in tested]
        oracle = self.answers_after(
            [rationales[i] for i in tested], [rationales[i].rationale for i in tested]
        )
        perturbed = self.answers_after(
            [rationales[i] for i in tested],
            [self._perturb(text, rationales[i].id) for i, text in zip(tested, own, strict=True)],
        )
        interventions = dict(zip(tested, zip(oracle, perturbed, strict=True), strict=True))
        probed = self._probed([rationales[i] for i in tested], own)
        probes = dict(zip(tested, probed, strict=True))
        return [
            StudentAnswer.from_row(
                r.to_row()
                | {"rationale": written[i][0], "student_answer": answers[i], "method": self.method}
                | {"wrote_answer": match_answer(written[i][1], r) is not None}
                | {"oracle_answer": interventions.get(i, ("", ""))[0] if not r.error else ""}
                | {"perturbed_answer": interventions.get(i, ("", ""))[1]}
                | probes.get(i, {})
            )
            for i, r in enumerate(rationales)
        ]

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer) to every question."""
        written, answers = self._explain(pairs)
        return [(rationale, answer) for (rationale, _), answer in zip(written, answers, strict=True)]

    def check(self, pair: QAPair, rationale: str | None) -> None:
        """Raises TooLong for a question that does not fit into the model."""
        # T5's positions are relative: its configuration names no length.
        longest = getattr(self.model.config, "max_position_embeddings", None)
        check_length(self.tokenizer, self.prompt.source(pair), rationale, self.config, longest)

    def respond(
        self,
        pairs: Sequence[QAPair],
        rationales: Sequence[str | None],
        decodings: Sequence[Decoding] | None = None,
        *,
        on_step: Callable[[list[int]], None] | None = None,
    ) -> list[Reply]:
        """Rationale and answer of every question; where a rationale is given, the answer that follows it.

        The answers are those of `answer`, unless `decodings` ask for others. `on_step` hears the tokens of
        the questions without a rationale.
        """
        free = [i for i, rationale in enumerate(rationales) if rationale is None]
        asked = [decodings[i] if decodings else GREEDY for i in free]
        own = dict(zip(free, self._write_as([pairs[i] for i in free], asked, on_step), strict=True))
        parsed = [
            self.prompt.parse(own[i].text) if i in own else (str(rationales[i]), "")
            for i in range(len(pairs))
        ]
        logprobs = self._choice_logprobs(pairs, [rationale for rationale, _ in parsed])
        matched = [match_answer(answer, pair) for pair, (_, answer) in zip(pairs, parsed, strict=True)]
        unsaid = [i for i, pair in enumerate(pairs) if matched[i] is None and not pair.choices]
        forced = {i: self._written_after(pairs[i], parsed[i][0]) for i in unsaid}
        return [
            make_reply(
                pair,
                own.get(i),
                rationale=parsed[i][0],
                answer=matched[i],
                forced=forced.get(i),
                logprobs=logprobs[i],
                num_prompt_tokens=len(self.tokenizer(self.prompt.source(pair)).input_ids),
            )
            for i, pair in enumerate(pairs)
        ]

    def _write_as(
        self,
        pairs: Sequence[QAPair],
        decodings: Sequence[Decoding],
        on_step: Callable[[list[int]], None] | None,
    ) -> list[Written]:
        """What each decoding makes of its question; rows that ask for nothing are greedy as ever."""
        sources, limit = [self.prompt.source(pair) for pair in pairs], self.config.max_new_tokens
        seeds = [
            decoding.seed_of(source, run_seed=self.seed)
            for decoding, source in zip(decodings, sources, strict=True)
        ]
        choice = TokenChoice(decodings, seeds)
        rows = self._generate(
            pairs,
            on_step,
            max_new_tokens=max((decoding.most_tokens(limit) for decoding in decodings), default=limit),
            choice=choice if choice.drawing or choice.wanted else None,
            ends=row_ends(self.tokenizer, decodings, limit),
        )
        return [
            read_tokens(self.tokenizer, ids, decoding, limit=limit, steps=choice.steps.get(row, ()))
            for row, (ids, decoding) in enumerate(zip(rows, decodings, strict=True))
        ]

    def _written_after(self, pair: QAPair, rationale: str) -> Written:
        """What the student writes for an open question when the rationale is forced."""
        context = self._context(pair, rationale)
        [ids] = generate_ids(
            self.model,
            self.tokenizer,
            [context.source],
            forced=context.target_prefix,
            max_new_tokens=MAX_ANSWER_TOKENS,
        )
        return read_tokens(self.tokenizer, ids, GREEDY, limit=MAX_ANSWER_TOKENS)

    def _choice_logprobs(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[list[float]]:
        """Of every choice after the rationale; [] for open questions."""
        closed = [i for i, pair in enumerate(pairs) if pair.choices]
        rows = candidate_logprobs(
            self.model, self.tokenizer, [self._context(pairs[i], rationales[i]) for i in closed]
        ) if closed else []  # fmt: skip
        scored = dict(zip(closed, rows, strict=True))
        return [scored.get(i, []) for i in range(len(pairs))]

    def _write(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer as written) for every question."""
        rows = self._generate(pairs)
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
        return [self.prompt.parse(text) for text in texts]

    def _generate(
        self,
        pairs: Sequence[QAPair],
        on_step: Callable[[list[int]], None] | None = None,
        *,
        max_new_tokens: int | None = None,
        choice: TokenChoice | None = None,
        ends: Callable[[list[list[int]]], list[bool]] | None = None,
    ) -> list[list[int]]:
        sources = [self.prompt.source(pair) for pair in pairs]
        if not sources:
            return []
        return generate_ids(
            self.model,
            self.tokenizer,
            sources,
            forced=self.prompt.forced if self.model.config.is_encoder_decoder else "",
            max_new_tokens=max_new_tokens or self.config.max_new_tokens,
            ends_with_line=self.prompt.ends_with_line,
            on_step=on_step,
            choice=choice,
            ends=ends,
        )

    def _explain(self, pairs: Sequence[QAPair]) -> tuple[list[tuple[str, str]], list[str]]:
        """(rationale, answer as written), and the answers."""
        written = self._write(pairs)
        return written, self._resolve(pairs, written)

    def _resolve(self, pairs: Sequence[QAPair], written: Sequence[tuple[str, str]]) -> list[str]:
        matched = [match_answer(answer, pair) for pair, (_, answer) in zip(pairs, written, strict=True)]
        open_ = [i for i, answer in enumerate(matched) if answer is None]
        chosen = self.answers_after([pairs[i] for i in open_], [written[i][0] for i in open_])
        return [answer if answer is not None else chosen[open_.index(i)] for i, answer in enumerate(matched)]

    def answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        """The answer that follows when the rationale is forced: the likeliest choice, or free text."""
        contexts = [self._context(pair, r) for pair, r in zip(pairs, rationales, strict=True)]
        return choose_or_write(self.model, self.tokenizer, contexts, pairs)

    def _context(self, pair: QAPair, rationale: str) -> Context:
        is_encoder_decoder = self.model.config.is_encoder_decoder
        prefix = self.prompt.prefix(rationale, is_encoder_decoder=is_encoder_decoder)
        return Context(self.prompt.source(pair), prefix, [f" {choice}" for choice in pair.choices])

    def _probed(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[dict[str, list[str]]]:
        """Per question the columns `probes` and `probe_answers`."""
        if self.prober is None:
            return [{} for _ in pairs]
        probes = [list(self.prober(pair, text)) for pair, text in zip(pairs, rationales, strict=True)]
        asked = [(pair, probe) for pair, own in zip(pairs, probes, strict=True) for probe in own]
        answers = iter(
            self.answers_after(
                [replace(pair, question=probe.question) for pair, probe in asked],
                [probe.rationale for _, probe in asked],
            )
        )
        return [
            {"probes": [probe.name for probe in own], "probe_answers": [next(answers) for _ in own]}
            for own in probes
        ]

    def _perturb(self, rationale: str, record_id: str) -> str:
        fraction = self.config.perturbed_fraction
        return damaged(rationale, self.tokenizer, fraction, seed=self.seed, record_id=record_id)


def damaged(rationale: str, tokenizer, fraction: float, *, seed: int, record_id: str) -> str:
    """A rationale with int(fraction * n) of its tokens replaced by others of the vocabulary."""
    ids = tokenizer(rationale, add_special_tokens=False).input_ids
    special = set(tokenizer.all_special_ids)
    vocabulary = [i for i in range(len(tokenizer)) if i not in special]
    random_ = seeded(seed, record_id, "perturbed rationale")
    return str(tokenizer.decode(perturb_tokens(ids, vocabulary, fraction=fraction, random_=random_)))


def perturb_tokens(ids: Sequence[int], vocabulary: Sequence[int], *, fraction: float, random_) -> list[int]:
    """Replace int(fraction * n) positions by other tokens, uniformly and without replacement."""
    replaced = list(ids)
    for position in random_.sample(range(len(ids)), int(fraction * len(ids))):
        while replaced[position] == ids[position]:
            replaced[position] = random_.choice(vocabulary)
    return replaced


def choose_or_write(model, tokenizer, contexts: Sequence[Context], pairs: Sequence[QAPair]) -> list[str]:
    """Per context the likeliest choice; where there are no choices, the text the model writes."""
    closed = [i for i, pair in enumerate(pairs) if pair.choices]
    results: dict[int, str] = {}
    if closed:
        logprobs = candidate_logprobs(model, tokenizer, [contexts[i] for i in closed])
        results |= {i: likeliest(pairs[i].choices, row) for i, row in zip(closed, logprobs, strict=True)}
    open_ = [i for i, pair in enumerate(pairs) if not pair.choices]
    texts = _write_after(model, tokenizer, [contexts[i] for i in open_])
    results |= {i: free_answer(text, pairs[i]) for i, text in zip(open_, texts, strict=True)}
    return [results[i] for i in range(len(contexts))]


def _write_after(model, tokenizer, contexts: Sequence[Context]) -> list[str]:
    """What the model writes after each target prefix.

    A decoder-only model reads source and prefix as one text. Encoder-decoders begin a batch with one prefix,
    so that contexts are put together by it.
    """
    if not model.config.is_encoder_decoder:
        sources = [context.source + context.target_prefix for context in contexts]
        return _write_batches(model, tokenizer, sources, forced="")
    texts: dict[int, str] = {}
    for prefix in dict.fromkeys(context.target_prefix for context in contexts):
        same = [i for i, context in enumerate(contexts) if context.target_prefix == prefix]
        written = _write_batches(model, tokenizer, [contexts[i].source for i in same], forced=prefix)
        texts |= dict(zip(same, written, strict=True))
    return [texts[i] for i in range(len(contexts))]


def _write_batches(model, tokenizer, sources: Sequence[str], *, forced: str) -> list[str]:
    return [
        text
        for start in range(0, len(sources), NUM_WRITTEN_TOGETHER)
        for text in generate_texts(
            model,
            tokenizer,
            sources[start : start + NUM_WRITTEN_TOGETHER],
            forced=forced,
            max_new_tokens=MAX_ANSWER_TOKENS,
        )
    ]
