"""What a run says of its own results: a card for its rationales, and one for its student.

They lie in the run folder, in `cards/`, outside the folders of the stages: a student's card has figures that
are known only after the student is finished. An export takes them along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from cotray.config import RunConfig
from cotray.export.conversations import asked
from cotray.export.finished_run import FinishedRun, finished_run
from cotray.export.licence import licence_of
from cotray.prompts.student import inference_tag
from cotray.report.table import MIN_QUESTIONS, interval, number, unmeasured
from cotray.storage.manifest import Manifest

FIGURES = {
    "accuracy": "accuracy",
    "oracle_accuracy": "accuracy after the teacher's rationale",
    "perturbed_accuracy": "accuracy after a damaged rationale",
    "wrote_answer": "answers that name a choice",
}


def write_cards(config: RunConfig) -> None:
    """Both cards of the run in `run_dir`, or what there is to say so far."""
    run = finished_run(config)
    about = (
        "`rationales/` has them as Parquet; its columns are described in cotray's documentation of the run "
        "folder. `kind` tells the counterfactual ones, `split` what they are for, and `error` those that "
        "failed."
    )
    cards = {"dataset": dataset_card(run, about)}
    if run.student is not None:
        cards["model"] = model_card(run)
    for name, text in cards.items():
        run.folder.write_bytes(f"cards/{name}.md", text.encode())


def dataset_card(
    run: FinishedRun,
    about: str,
    files: Mapping[str, int] | None = None,
    configs: Sequence[Mapping[str, Any]] = (),
    *,
    has_counterfactual: bool = True,
) -> str:
    """`about` says what is in the files; `configs` are those of the hub."""
    rationales = run.folder.require("rationales", "generate")
    front = {
        "pretty_name": f"Rationales of {_writer(run)}, {run.method}",
        "tags": ["cotray", "rationales", "chain-of-thought"],
        **({"configs": list(configs)} if configs else {}),
    }
    kinds = rationales.settings.get("kinds", [])
    values = {
        **_common(run),
        "about": about,
        "files": files or {},
        "num_asked": rationales.num_in,
        "num_failed": rationales.num_dead,
        "has_counterfactual": has_counterfactual and "counterfactual" in kinds,
    }
    return _card(front, "dataset_card.j2", values)


def model_card(run: FinishedRun) -> str:
    """Of a trained student, with the figures of `score` where it ran."""
    student = run.folder.require("student", "train")
    model, licence = student.settings["model"], licence_of(student.settings["model"])
    is_chat = run.folder.exists("student/chat_template.jinja")
    front = {
        "library_name": "transformers",
        **({"pipeline_tag": "text-generation"} if is_chat else {}),
        "tags": ["cotray", "rationales", "chain-of-thought"],
        **({"license": licence} if licence else {}),
        **({"base_model": model} if _is_on_the_hub(model) else {}),
    }
    tag = inference_tag(run.config.student.training.tags)
    scored = run.folder.manifest("simulations")
    values = {
        **_common(run),
        **_scores(scored),
        "student": _short(model),
        "student_licence": licence or _unknown(model),
        "num_factual": student.metrics["factual"],
        "num_counterfactual": student.metrics["counterfactual"],
        "simulator": _simulator(run) if scored else "",
        "is_chat": is_chat,
        "source": f"{tag} QUESTION".strip(),
        "example": json.dumps(_example(run), ensure_ascii=False),
    }
    return _card(front, "model_card.j2", values)


def _common(run: FinishedRun) -> dict[str, Any]:
    """What both cards say."""
    requests, rationales = run.folder.manifest("requests"), run.folder.require("rationales", "generate")
    teacher = run.teacher
    is_model = teacher != "people"
    return {
        "version": rationales.versions.get("cotray", "of an unknown version"),
        "method": run.method,
        "data": (requests.metrics.get("path") if requests else None) or run.config.written()["data"]["path"],
        "teacher": _writer(run),
        **_decoding(rationales),
        "is_counterfactual": run.method.endswith("+counterfactual"),
        "is_written_by_model": is_model,
        "is_over_api": run.is_over_api,
        "teacher_licence": _teacher_licence(run) if is_model else "that of the data",
        "measures": _measures(run),
        "settings": _settings(run.config),
        "command": "cotray run -c config.yaml",
    }


def _writer(run: FinishedRun) -> str:
    return f"{_short(run.teacher)} (over an API)" if run.is_over_api else _short(run.teacher)


def _teacher_licence(run: FinishedRun) -> str:
    if run.is_over_api:
        return "not known to cotray; the terms of whoever runs the API apply"
    return licence_of(run.teacher) or _unknown(run.teacher)


def _measures(run: FinishedRun) -> list[tuple[str, str, str, int]]:
    """Name, mean, interval and number of rationales of each score of `assess`, of these rationales."""
    rationales, assessed = run.folder.manifest("rationales"), run.folder.manifest("assessments")
    if assessed is None or rationales is None or assessed.input != rationales.fingerprint:
        return []
    return [
        (name, number(part["mean"]), interval(part["ci95"]), part["n"])
        for name, part in assessed.metrics.items()
        if isinstance(part, dict) and "mean" in part
    ]


def _scores(scored: Manifest | None) -> dict[str, Any]:
    """The table of figures; as in reports, none is shown from fewer than 30 test questions."""
    if scored is None:
        return {"figures": [], "num_questions": 0, "las_reason": None}
    metrics, las = scored.metrics, scored.metrics["las"]
    num_questions = metrics["accuracy"]["n"]
    parts = {
        "LAS": (las["las"], las["ci95"], num_questions),
        "simulation gain": (las["sim_gain"], las["sim_gain_ci95"], num_questions),
        **{
            name: (part["value"], part["ci95"], part["n"])
            for key, name in FIGURES.items()
            if (part := metrics[key])
        },
    }
    figures = [
        (name, number(value), interval(bounds)) if n >= MIN_QUESTIONS else (name, unmeasured(n), "-")
        for name, (value, bounds, n) in parts.items()
    ]
    return {"figures": figures, "num_questions": num_questions, "las_reason": las["reason"]}


def _example(run: FinishedRun) -> str:
    """A question of the kind that the student knows, if possible one that it has not learned from."""
    first = None
    for row in run.rationales():
        if row.split == "test":
            return asked(row)
        first = first or row
    return asked(first) if first else "..."


def _simulator(run: FinishedRun) -> str:
    settings = run.folder.require("simulator", "score").settings
    return f"{_short(settings['model'])} ({settings['mode']})"


def _decoding(rationales: Manifest) -> dict[str, Any]:
    method = rationales.settings["method"]
    weight = rationales.settings.get("teacher", {}).get("decoding", {}).get("weight")
    return {"decoding": method, "weight": weight, "is_contrastive": method.startswith("contrast-")}


def _settings(config: RunConfig) -> str:
    """Of this method alone, without what is said of the machines it ran on."""
    again = config.model_copy(update={"run_dir": f"runs/{config.method}", "methods": (config.method,)})
    tree = again.written(exclude_defaults=True, exclude={"ray", "storage", "serving"})
    return yaml.safe_dump(tree, sort_keys=False).strip()


def _unknown(model: str) -> str:
    return f"not known to cotray; look where {_short(model)} comes from"


def _short(model: str) -> str:
    """A model's name in a sentence: of a folder its own name, of a model of the world no settings."""
    if model.startswith(("/", "~", ".", "s3://")):
        return model.rstrip("/").rpartition("/")[2]
    return model.partition("?")[0] if model.startswith("world:") else model


def _is_on_the_hub(model: str) -> bool:
    return "/" in model and ":" not in model and not model.startswith((".", "/", "~"))


def _card(front: Mapping[str, Any], template: str, values: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("cotray.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(values)
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False)}---\n\n{text.rstrip()}\n"
