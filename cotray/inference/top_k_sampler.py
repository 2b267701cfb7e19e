"""Rationales that a student draws from its likeliest tokens, several for each question.

A draw follows from (seed, question, sample) alone; which rows share a batch changes nothing in it.

B: rows  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import LogitsProcessor

from cotray.inference.generation import generate_ids
from cotray.models.loading import load_for_inference
from cotray.models.token_draws import draw, uniforms
from cotray.prompts.student import Tags, trained_prompt
from cotray.records import Rationale, TeacherRequest
from cotray.seeds import digest


class Sampler:
    """A student in Hugging Face format that draws its rationales."""

    def __init__(self, model: str, *, top_k: int, max_new_tokens: int, tags: Tags, seed: int) -> None:
        self.model, self.tokenizer = load_for_inference(model)
        self.top_k, self.max_new_tokens, self.seed = top_k, max_new_tokens, seed
        self.prompt = trained_prompt(tags)

    def write(self, drafts: Sequence[Rationale]) -> list[Rationale]:
        """The drafts with what the student draws for their question and `sample` as their rationale."""
        seeds = [digest(self.seed, draft.id, "sample", str(draft.sample)) >> 1 for draft in drafts]
        rows = generate_ids(
            self.model,
            self.tokenizer,
            [self.prompt.source(draft) for draft in drafts],
            forced=self.prompt.forced if self.model.config.is_encoder_decoder else "",
            max_new_tokens=self.max_new_tokens,
            choice=TopKDraws(seeds, top_k=self.top_k),
        )
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        rationales = [self.prompt.parse(str(text))[0] for text in texts]
        return [
            replace(draft, rationale=rationale, num_tokens=len(row))
            for draft, rationale, row in zip(drafts, rationales, rows, strict=True)
        ]


def sampled_rationales(
    requests: Sequence[TeacherRequest], *, num_samples: int, method: str
) -> list[Rationale]:
    """Rationales still to be written: `num_samples` for each request, next to each other."""
    return [
        Rationale.from_row(request.to_row() | {"method": method, "sample": sample})
        for request in requests
        for sample in range(num_samples)
    ]


class TopKDraws(LogitsProcessor):
    """Leaves of each row's logits only the token that its seed draws from the `top_k` largest."""

    def __init__(self, seeds: Sequence[int], *, top_k: int) -> None:
        self.seeds, self.top_k, self.step = list(seeds), top_k, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Called once per step with logits `(B, V)`."""
        likeliest = scores.topk(min(self.top_k, scores.shape[-1]))
        kept_BV = torch.full_like(scores, -torch.inf).scatter(-1, likeliest.indices, likeliest.values)
        seed_B = torch.tensor(self.seeds, device=scores.device)
        drawn_B = draw(kept_BV, uniforms(seed_B, torch.full_like(seed_B, self.step)))
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn_B[:, None], 0.0)
