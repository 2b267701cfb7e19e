"""The few-shot baseline of a teacher behind an endpoint, under the same interventions as other students.

An endpoint gives no likelihoods of choices. Where a reply names no choice, the model is asked for the answer
alone; what it says then is the answer, also where that is none of the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotray.config import ScoringConfig, TeacherConfig
from cotray.inference.endpoint_model import EndpointModel
from cotray.inference.openai_endpoint import Prompt
from cotray.inference.student_reply import MAX_ANSWER_TOKENS, free_answer, match_answer
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.teacher import Demonstrations
from cotray.prompts.teacher_chat import TeacherChat, fields_of, named_answer, reasoned, reply_text
from cotray.records import QAPair, Rationale, StudentAnswer
from cotray.scoring.probes import Prober
from cotray.scoring.student import damaged


class EndpointStudent:
    """Safe for concurrent calls."""

    def __init__(
        self,
        teacher: TeacherConfig,
        model: EndpointModel,
        tokenizer: Any,
        *,
        config: ScoringConfig,
        seed: int,
        own: Demonstrations | None = None,
        prober: Prober | None = None,
    ) -> None:
        """`tokenizer`: of whose tokens rationales are damaged, because the endpoint's is not at hand."""
        self.model, self.tokenizer, self.config, self.seed, self.prober = (
            model,
            tokenizer,
            config,
            seed,
            prober,
        )
        self.fields = fields_of(teacher, is_begun=False)
        self.is_chat = teacher.prompt == "chat"
        self.chat, self.text = TeacherChat(teacher, own), FewShotPrompt(teacher.num_demonstrations, own)

    def answer(
        self,
        rationales: Sequence[Rationale],
        *,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[StudentAnswer]:
        """One StudentAnswer per factual rationale; test rows also get the interventions and the probes.

        A question that the endpoint refuses has no rationale and no answer. Raises as `EndpointModel.ask`.
        """
        written = self._write(rationales)
        matched = [_match(answer, pair) for pair, (_, answer) in zip(rationales, written, strict=True)]
        asked = list[tuple[QAPair, str]]()
        places = list[tuple[int, str]]()

        def ask(row: int, name: str, pair: QAPair, rationale: str) -> None:
            places.append((row, name))
            asked.append((pair, rationale))

        for row, pair in enumerate(rationales):
            own, _ = written[row]
            if matched[row] is None and own:
                ask(row, "student_answer", pair, own)
            if pair.split != "test":
                continue
            if not pair.error:
                ask(row, "oracle_answer", pair, pair.rationale)
            if own:
                ask(row, "perturbed_answer", pair, self._perturb(own, pair.id))
            for probe in self.prober(pair, own) if self.prober else ():
                ask(row, f"probe {probe.name}", replace(pair, question=probe.question), probe.rationale)
        said: list[dict[str, str]] = [{} for _ in rationales]
        for (row, name), answer in zip(places, self._answers_after(asked), strict=True):
            said[row][name] = answer
        for _ in rationales:
            on_finished(1)
        return [
            self._row(pair, written[row][0], matched[row], said[row]) for row, pair in enumerate(rationales)
        ]

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer) to every question; both are "" where the endpoint refuses it."""
        written = self._write(pairs)
        answers = [_match(answer, pair) for pair, (_, answer) in zip(pairs, written, strict=True)]
        open_ = [i for i, answer in enumerate(answers) if answer is None and written[i][0]]
        said = self._answers_after([(pairs[i], written[i][0]) for i in open_])
        chosen = dict(zip(open_, said, strict=True))
        return [(own, answers[i] or chosen.get(i, "")) for i, (own, _) in enumerate(written)]

    def answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        """The answer that follows each rationale."""
        return self._answers_after(list(zip(pairs, rationales, strict=True)))

    def _row(self, pair: Rationale, own: str, matched: str | None, said: Mapping[str, str]) -> StudentAnswer:
        probes = {name.removeprefix("probe "): said[name] for name in said if name.startswith("probe ")}
        fields = {
            "rationale": own,
            "student_answer": matched or said.get("student_answer", ""),
            "wrote_answer": matched is not None,
            "oracle_answer": said.get("oracle_answer", ""),
            "perturbed_answer": said.get("perturbed_answer", ""),
            "method": "few-shot",
            "probes": tuple(probes),
            "probe_answers": tuple(probes.values()),
        }
        return StudentAnswer.from_row(pair.to_row() | fields)

    def _write(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer as written) for every question."""
        if self.is_chat:
            contents = [self.chat.reasoning(pair) for pair in pairs]
        else:
            contents = [self.text.source(pair) for pair in pairs]
        texts = self._ask(contents, pairs, self.config.max_new_tokens)
        return [reasoned(text) if self.is_chat else self.text.parse(text) for text in texts]

    def _answers_after(self, asked: Sequence[tuple[QAPair, str]]) -> list[str]:
        """The answer that follows when the rationale is given."""
        if self.is_chat:
            contents = [self.chat.answering(pair, rationale) for pair, rationale in asked]
        else:
            contents = [
                self.text.source(pair) + self.text.prefix(rationale, is_encoder_decoder=False)
                for pair, rationale in asked
            ]
        # A chat model may think before its few words.
        limit = self.config.max_new_tokens if self.is_chat else MAX_ANSWER_TOKENS
        pairs = [pair for pair, _ in asked]
        texts = self._ask(contents, pairs, limit)
        answers = [reply_text(text) if self.is_chat else text for text in texts]
        return [
            _match(text, pair) or free_answer(text, pair) for pair, text in zip(pairs, answers, strict=True)
        ]

    def _ask(self, contents: Sequence[Any], pairs: Sequence[QAPair], max_tokens: int) -> list[str]:
        stop = () if self.is_chat else ("\n",)
        prompts = [Prompt(content, max_tokens, stop=stop, more=self.fields) for content in contents]
        return [said.text for said in self.model.ask(prompts, [pair.id for pair in pairs])]

    def _perturb(self, rationale: str, record_id: str) -> str:
        fraction = self.config.perturbed_fraction
        return damaged(rationale, self.tokenizer, fraction, seed=self.seed, record_id=record_id)


def _match(text: str, pair: QAPair) -> str | None:
    """The answer in what was written; of an open question any text."""
    exact = match_answer(text, pair)
    return exact if exact is not None or not pair.choices else named_answer(text, pair)
