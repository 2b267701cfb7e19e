"""The student at work: it writes a rationale and an answer, and is asked again under interventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cotray.config import ScoringConfig
from cotray.inference.generation import generate_ids, generate_texts
from cotray.inference.likelihood import Context, candidate_logprobs, likeliest
from cotray.inference.student_reply import (
    MAX_ANSWER_TOKENS,
    check_length,
    first_line,
    make_reply,
    match_choice,
)
from cotray.models.loading import load_for_inference
from cotray.prompts.student import StudentPrompt
from cotray.records import QAPair, Rationale, Reply, StudentAnswer
from cotray.scoring.probes import Prober
from cotray.seeds import seeded


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
        written = self._write(rationales)
        answers = self._resolve(rationales, written)
        tested = [i for i, r in enumerate(rationales) if r.split == "test"]
        own = [written[i][0] for i in tested]
        oracle = self._answers_after(
            [rationales[i] for i in tested], [rationales[i].rationale for i in tested]
        )
        perturbed = self._answers_after(
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
                | {"wrote_answer": match_choice(written[i][1], r.choices) is not None}
                | {"oracle_answer": interventions.get(i, ("", ""))[0] if not r.error else ""}
                | {"perturbed_answer": interventions.get(i, ("", ""))[1]}
                | probes.get(i, {})
            )
            for i, r in enumerate(rationales)
        ]

    def check(self, pair: QAPair, rationale: str | None) -> None:
        """Raises TooLong for a question that does not fit into the model."""
        # T5's positions are relative: its configuration names no length.
        longest = getattr(self.model.config, "max_position_embeddings", None)
        check_length(self.tokenizer, self.prompt.source(pair), rationale, self.config, longest)

    def respond(
        self,
        pairs: Sequence[QAPair],
        rationales: Sequence[str | None],
        *,
        on_step: Callable[[list[int]], None] | None = None,
    ) -> list[Reply]:
        """Rationale and answer of every question; where a rationale is given, the answer that follows it.

        The answers are those of `answer`. `on_step` hears the tokens of the questions without a rationale.
        """
        free = [i for i, rationale in enumerate(rationales) if rationale is None]
        ids = dict(zip(free, self._generate([pairs[i] for i in free], on_step), strict=True))
        texts = {i: str(self.tokenizer.decode(row, skip_special_tokens=True)) for i, row in ids.items()}
        written = [
            self.prompt.parse(texts[i]) if i in texts else (str(rationales[i]), "") for i in range(len(pairs))
        ]
        logprobs = self._choice_logprobs(pairs, [rationale for rationale, _ in written])
        matched = [
            match_choice(answer, pair.choices) for pair, (_, answer) in zip(pairs, written, strict=True)
        ]
        unsaid = [i for i, pair in enumerate(pairs) if matched[i] is None and not pair.choices]
        said = dict(
            zip(
                unsaid,
                self._answers_after([pairs[i] for i in unsaid], [written[i][0] for i in unsaid]),
                strict=True,
            )
        )
        return [
            make_reply(
                pair,
                texts.get(i),
                rationale=written[i][0],
                answer=matched[i],
                forced=said.get(i, ""),
                logprobs=logprobs[i],
                num_prompt_tokens=len(self.tokenizer(self.prompt.source(pair)).input_ids),
                num_tokens=len(ids.get(i, [])),
            )
            for i, pair in enumerate(pairs)
        ]

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
        self, pairs: Sequence[QAPair], on_step: Callable[[list[int]], None] | None = None
    ) -> list[list[int]]:
        sources = [self.prompt.source(pair) for pair in pairs]
        if not sources:
            return []
        return generate_ids(
            self.model,
            self.tokenizer,
            sources,
            forced=self.prompt.forced if self.model.config.is_encoder_decoder else "",
            max_new_tokens=self.config.max_new_tokens,
            ends_with_line=self.prompt.ends_with_line,
            on_step=on_step,
        )

    def _resolve(self, pairs: Sequence[QAPair], written: Sequence[tuple[str, str]]) -> list[str]:
        matched = [
            match_choice(answer, pair.choices) for pair, (_, answer) in zip(pairs, written, strict=True)
        ]
        open_ = [i for i, answer in enumerate(matched) if answer is None]
        chosen = self._answers_after([pairs[i] for i in open_], [written[i][0] for i in open_])
        return [answer if answer is not None else chosen[open_.index(i)] for i, answer in enumerate(matched)]

    def _answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        """The answer that follows when the rationale is forced: the likeliest choice, or free text."""
        contexts = [self._context(pair, r) for pair, r in zip(pairs, rationales, strict=True)]
        return choose_or_write(self.model, self.tokenizer, contexts, [pair.choices for pair in pairs])

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
            self._answers_after(
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


def choose_or_write(
    model, tokenizer, contexts: Sequence[Context], choices: Sequence[Sequence[str]]
) -> list[str]:
    """Per context the likeliest choice; where there are no choices, the text the model writes."""
    closed = [i for i, options in enumerate(choices) if options]
    results: dict[int, str] = {}
    if closed:
        logprobs = candidate_logprobs(model, tokenizer, [contexts[i] for i in closed])
        results |= {i: likeliest(choices[i], row) for i, row in zip(closed, logprobs, strict=True)}
    for i, options in enumerate(choices):
        if not options:
            context = contexts[i]
            text = generate_texts(
                model,
                tokenizer,
                [context.source],
                forced=context.target_prefix,
                max_new_tokens=MAX_ANSWER_TOKENS,
            )[0]
            results[i] = first_line(text)
    return [results[i] for i in range(len(contexts))]
