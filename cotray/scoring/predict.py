"""The student at work: it writes a rationale and an answer, and is asked again under interventions."""

from __future__ import annotations

from collections.abc import Sequence

from cotray.config import ScoringConfig
from cotray.models import load_for_inference
from cotray.prompts.student import Tags, parse_student, student_source, tag_of, target_prefix
from cotray.records import QAPair, Rationale, StudentAnswer, normalized
from cotray.scoring.generation import generate_texts
from cotray.scoring.likelihood import Context, candidate_logprobs, likeliest
from cotray.seeds import seeded


class Student:
    """A trained student in Hugging Face format."""

    def __init__(self, model: str, *, config: ScoringConfig, tags: Tags, seed: int, method: str) -> None:
        self.model, self.tokenizer = load_for_inference(model)
        self.config, self.seed, self.method = config, seed, method
        # Shuffled tags are a training ablation: at inference every question is a factual one.
        self.tag = tag_of("factual", "on" if tags == "shuffled" else tags, seed=seed, record_id="")

    def answer(self, rationales: Sequence[Rationale]) -> list[StudentAnswer]:
        """One StudentAnswer per factual rationale; test rows also get the two interventions.

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
        return [
            StudentAnswer.from_row(
                r.to_row()
                | {"rationale": written[i][0], "student_answer": answers[i], "method": self.method}
                | {"wrote_answer": match_choice(written[i][1], r.choices) is not None}
                | {"oracle_answer": interventions.get(i, ("", ""))[0] if not r.error else ""}
                | {"perturbed_answer": interventions.get(i, ("", ""))[1]}
            )
            for i, r in enumerate(rationales)
        ]

    def _write(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer as written) for every question."""
        sources = [student_source(pair, tag=self.tag) for pair in pairs]
        forced = self.tag if self.model.config.is_encoder_decoder else ""
        texts = generate_texts(
            self.model, self.tokenizer, sources, forced=forced, max_new_tokens=self.config.max_new_tokens
        )
        return [parse_student(text, tag=self.tag) for text in texts]

    def _resolve(self, pairs: Sequence[QAPair], written: Sequence[tuple[str, str]]) -> list[str]:
        matched = [
            match_choice(answer, pair.choices) for pair, (_, answer) in zip(pairs, written, strict=True)
        ]
        open_ = [i for i, answer in enumerate(matched) if answer is None]
        chosen = self._answers_after([pairs[i] for i in open_], [written[i][0] for i in open_])
        return [answer if answer is not None else chosen[open_.index(i)] for i, answer in enumerate(matched)]

    def _answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        """The answer that follows when the rationale is forced: the likeliest choice, or free text."""
        prefixes = [
            target_prefix(r, tag=self.tag, is_encoder_decoder=self.model.config.is_encoder_decoder)
            for r in rationales
        ]
        contexts = [
            Context(student_source(pair, tag=self.tag), prefix, [f" {choice}" for choice in pair.choices])
            for pair, prefix in zip(pairs, prefixes, strict=True)
        ]
        return choose_or_write(self.model, self.tokenizer, contexts, [pair.choices for pair in pairs])

    def _perturb(self, rationale: str, record_id: str) -> str:
        ids = self.tokenizer(rationale, add_special_tokens=False).input_ids
        special = set(self.tokenizer.all_special_ids)
        vocabulary = [i for i in range(len(self.tokenizer)) if i not in special]
        random_ = seeded(self.seed, record_id, "perturbed rationale")
        perturbed = perturb_tokens(ids, vocabulary, fraction=self.config.perturbed_fraction, random_=random_)
        return str(self.tokenizer.decode(perturbed))


def perturb_tokens(ids: Sequence[int], vocabulary: Sequence[int], *, fraction: float, random_) -> list[int]:
    """Replace int(fraction * n) positions by other tokens, uniformly and without replacement (METHOD 4.5)."""
    replaced = list(ids)
    for position in random_.sample(range(len(ids)), int(fraction * len(ids))):
        while replaced[position] == ids[position]:
            replaced[position] = random_.choice(vocabulary)
    return replaced


def match_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that equals `answer` but for case and spacing; open questions take any non-empty answer."""
    if not choices:
        return answer or None
    return next((choice for choice in choices if _plain(choice) == _plain(answer)), None)


def _plain(text: str) -> str:
    """As answers are compared, and without the full stop that students like to add."""
    return normalized(text).rstrip(".")


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
                model, tokenizer, [context.source], forced=context.target_prefix, max_new_tokens=16
            )[0]
            results[i] = text.strip().split("\n")[0].rstrip(".")
    return [results[i] for i in range(len(contexts))]
