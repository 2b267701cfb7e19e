"""The configuration of a run: a YAML file and `a.b=c` overrides become frozen, strict pydantic models.

Nothing here imports torch or Ray, so that `--help` is instant and a configuration crosses process
boundaries. Runtime objects are built from its sections elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from cotray.config.assessing import MEASURE_OF, AssessingConfig
from cotray.config.base import Config, FileConfig
from cotray.config.data import DataConfig
from cotray.config.file import read_tree, validated
from cotray.config.probing import ProbingConfig
from cotray.config.scoring import ScoringConfig
from cotray.config.serving import ServingConfig
from cotray.config.teacher import TeacherConfig
from cotray.config.training import SimulatorConfig, StudentConfig
from cotray.config.world import PREFIX, complete_model_name

Method = Literal[
    "greedy",
    "contrast-empty",
    "contrast-wrong",
    "contrast-hardest",
    "greedy+counterfactual",
    "contrast-empty+counterfactual",
    "contrast-wrong+counterfactual",
    "contrast-hardest+counterfactual",
    "human",
    "few-shot",
]
"""`human`: the student learns the data's own rationales, or their facts. `few-shot`: nobody learns, the
teacher itself answers and explains after demonstrations."""


class RayConfig(Config):
    address: str = "local"
    """`local` starts a cluster of this process's own unless RAY_ADDRESS names a running one."""
    num_cpus: int = Field(default=8, ge=1)
    """Logical CPUs of a local cluster."""
    object_store_mib: int = Field(default=512, ge=80)
    """Object store of a local cluster."""


class StorageConfig(Config):
    """Where s3:// is; credentials come from where AWS's own tools find them, never from here."""

    endpoint_url: str = Field(default="", pattern=r"^(https?://.+)?$")
    """Of a server other than AWS, such as http://localhost:9000; empty: AWS_ENDPOINT_URL, else AWS."""
    region: str = ""
    """Empty: AWS_REGION, else us-east-1 at an endpoint, else what AWS's configuration files say."""


class RunConfig(FileConfig):
    """The whole configuration; `config.yaml` in the run folder is a copy of it."""

    run_dir: str = "runs/default"
    """Where everything is written; local or s3://."""
    seed: int = 42
    """Of everything random, together with the id of the record at hand."""
    method: Method = "contrast-wrong+counterfactual"
    """How rationales are decoded, and whether the student also learns from counterfactual ones."""
    methods: tuple[Method, ...] = Field(
        default=("greedy", "contrast-empty", "contrast-wrong", "contrast-wrong+counterfactual"), min_length=1
    )
    """What `run` compares, each in a run folder of its own below run_dir."""
    data: DataConfig = DataConfig()
    """The questions."""
    teacher: TeacherConfig = TeacherConfig()
    """The large model that explains given answers."""
    assessing: AssessingConfig = AssessingConfig()
    """How rationales are judged before the student learns from them."""
    student: StudentConfig = StudentConfig()
    """The small model that learns from the rationales."""
    simulator: SimulatorConfig = SimulatorConfig()
    """The observer that predicts the student's answers, for LAS."""
    scoring: ScoringConfig = ScoringConfig()
    """How the student is asked, and the figures that come of it."""
    probing: ProbingConfig = ProbingConfig()
    """What is changed in its rationales and questions, to see what its answers do."""
    serving: ServingConfig = ServingConfig()
    """The student behind an HTTP endpoint."""
    ray: RayConfig = RayConfig()
    """The cluster that the commands run on."""
    storage: StorageConfig = StorageConfig()
    """Where s3:// is."""

    @model_validator(mode="before")
    @classmethod
    def _names_models_of_the_world_in_full(cls, tree: Any) -> Any:
        """`world:teacher` becomes that of `data.world`, so that a model's name says all it is made of."""
        if not isinstance(tree, Mapping):
            return tree
        try:
            world = DataConfig.model_validate(tree.get("data", {})).world
        except ValidationError:  # which is told, with its whole path, when the section itself is validated
            return tree
        sections = {
            name: {**section, "model": complete_model_name(section["model"], world)}
            for name in ("teacher", "student", "simulator")
            if isinstance(section := tree.get(name), Mapping) and str(section.get("model")).startswith(PREFIX)
        }
        return {**tree, **sections}

    @model_validator(mode="before")
    @classmethod
    def _takes_methods_that_an_api_can_write(cls, tree: Any) -> Any:
        """Where nothing is said of methods, those without contrast."""
        teacher = tree.get("teacher") if isinstance(tree, Mapping) else None
        if not isinstance(teacher, Mapping) or teacher.get("engine") != "openai":
            return tree
        method, methods = tree.get("method"), tree.get("methods")
        first = methods[0] if isinstance(methods, list | tuple) and methods else None
        default = [method] if method else ["greedy", "greedy+counterfactual"]
        return {**tree, "method": method or first or default[-1], "methods": methods or default}

    @model_validator(mode="after")
    def _contrasts_only_with_a_teacher_at_hand(self) -> Self:
        contrasting = [m for m in dict.fromkeys((self.method, *self.methods)) if m.startswith("contrast-")]
        if self.teacher.engine == "openai" and contrasting:
            raise ValueError(
                f"teacher.engine=openai cannot write {', '.join(contrasting)}: contrast compares the "
                "log-probabilities of all tokens under two prompts at every step, and an API does not give "
                "them. Choose methods among greedy, greedy+counterfactual, human and few-shot, or a teacher "
                "whose weights you have (teacher.engine=transformers or vllm)"
            )
        return self

    @model_validator(mode="after")
    def _measures_what_conseq_ranks_by(self) -> Self:
        conseq = self.student.conseq
        if conseq and (measure := MEASURE_OF[conseq.score]) not in self.assessing.measures:
            raise ValueError(
                f"student.conseq ranks by {conseq.score}: add {measure} to assessing.measures, "
                "or choose another student.conseq.score"
            )
        if conseq and not {"train", "dev"} <= set(self.assessing.splits):
            raise ValueError("student.conseq ranks what was assessed: add train and dev to assessing.splits")
        return self

    @property
    def decoding_method(self) -> str:
        """greedy | contrast-empty | contrast-wrong | contrast-hardest | human.

        The oracle rationales of a few-shot run are greedy ones.
        """
        return "greedy" if self.method == "few-shot" else self.method.removesuffix("+counterfactual")

    @property
    def asks_endpoint_for_answers(self) -> bool:
        """Whether the student is a teacher behind an API."""
        return self.method == "few-shot" and self.teacher.engine == "openai"

    @property
    def perturbation(self) -> str:
        """How the answers to contrast with are drawn: `wrong` also where nothing is contrasted."""
        kind = self.decoding_method.removeprefix("contrast-")
        return kind if kind in ("empty", "hardest") else "wrong"

    @property
    def num_draws(self) -> int:
        """Rationales per request."""
        return 1 if self.decoding_method == "human" else self.teacher.decoding.num_draws

    @property
    def counterfactual_weight(self) -> float:
        is_counterfactual = self.method.endswith("+counterfactual")
        return self.student.training.counterfactual_weight if is_counterfactual else 0.0

    def for_method(self, method: Method) -> RunConfig:
        """This configuration for one row of the comparison, in its own run folder."""
        run_dir = f"{self.run_dir.rstrip('/')}/{method}"
        return self.model_copy(update={"method": method, "methods": (method,), "run_dir": run_dir})


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML, replace ${ENV} and ${ENV:-default}, apply `a.b=c` overrides, and validate.

    Raises ConfigError with one line that names the file or key and the way out.
    """
    return parse_config(read_tree(path, overrides), source=str(path))


def parse_config(tree: Mapping[str, Any], *, source: str = "configuration") -> RunConfig:
    """Validate an already parsed tree; also the door for Serve arguments and tests."""
    return validated(RunConfig, tree, source=source)


def dump_config(config: RunConfig) -> str:
    """The configuration, defaults included, as YAML that `load_config` reads back to the same value.

    `${NAME}` stays where it was written.
    """
    return yaml.safe_dump(config.written(), sort_keys=False)
