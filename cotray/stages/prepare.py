"""prepare as a stage: QA pairs -> requests/; only `hardest` needs a teacher, and then on a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cotray.config import RunConfig
from cotray.data.demonstrations import own_demonstrations
from cotray.data.prepare import prepare as prepare_rows
from cotray.pools.progress import progress_bar
from cotray.prompts.teacher import Demonstrations
from cotray.records import QAPair
from cotray.storage.run_folder import Manifest, RunFolder


def prepare(config: RunConfig, *, overwrite: bool = False, label: str = "prepare") -> Manifest:
    """Run the stage, or return its manifest if it is done."""
    folder = RunFolder(config.run_dir)
    rank = _TeacherRank(config) if config.perturbation == "hardest" else None
    with progress_bar(label, total=None, unit="row") as bar:
        return prepare_rows(config, folder, overwrite=overwrite, on_rows=bar.update, rank=rank)


class _TeacherRank:
    """log p(candidate | question) under the teacher, on a replica that is started when first needed."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.actor = None

    def __call__(self, pair: QAPair, candidates: Sequence[str]) -> list[float]:
        import ray

        if self.actor is None:
            pool = self.config.teacher.all_pools[0]
            remote = ray.remote(
                num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, label_selector=pool.label_selector
            )(_ChoiceRanker)
            self.actor = remote.remote(self.config, own_demonstrations(self.config))
        return ray.get(self.actor.rank.remote(pair, list(candidates)))


class _ChoiceRanker:
    def __init__(self, config: RunConfig, own: Demonstrations) -> None:
        from cotray.teacher.teacher import build_teacher

        teacher = config.teacher.model_copy(update={"record_scores": False})
        self.teacher = build_teacher(teacher, method=config.decoding_method, seed=config.seed, own=own)

    def rank(self, pair: QAPair, candidates: list[str]) -> list[float]:
        """The prompt shows all of the question's choices, also where only some are ranked."""
        choices = pair.choices or tuple(candidates)
        scores = dict(zip(choices, self.teacher.choice_logprobs(replace(pair, choices=choices)), strict=True))
        return [scores[candidate] for candidate in candidates]
