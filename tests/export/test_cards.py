"""What cards say is what manifests and configuration say, and no more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_runs import METHODS, STUDENT, finish, run_folder

from cotray.config import RunConfig, parse_config
from cotray.errors import DataError
from cotray.export.cards import write_cards
from cotray.export.licence import front_matter, licence_of
from cotray.records import Rationale, Record
from cotray.scoring.las import las
from cotray.storage.run_folder import RunFolder
from cotray.storage.verify import verify


def scored(tmp_path: Path, *, times: int = 4, **sections: Any) -> tuple[RunConfig, RunFolder]:
    """A trained student, with figures over `times` times eight test questions: the worked example of LAS."""
    config = run_folder(tmp_path, **sections).for_method(METHODS[1])
    folder = RunFolder(config.run_dir)
    metrics = {"factual": 1234, "counterfactual": 56, "dev": 7}
    finish(folder, "student", [], Record, settings={"model": STUDENT}, metrics=metrics)
    finish(folder, "simulator", [], Record, settings={"model": "random:t5", "mode": "trained"})
    texts = (text * times for text in ("ABACBACB", "ACBCCAAC", "ABACBBAC", "ABACBACC"))
    part = {"value": 0.625, "ci95": (0.5, 0.75), "n": 8 * times}
    names = ("accuracy", "oracle_accuracy", "perturbed_accuracy", "wrote_answer")
    figures = {**dict.fromkeys(names, part), "las": asdict(las(*texts))}
    finish(folder, "simulations", [], Record, metrics=figures)
    return config, folder


def card(folder: RunFolder, name: str) -> str:
    return folder.read_bytes(f"cards/{name}.md").decode()


def test_a_students_card_has_its_figures_with_intervals(tmp_path: Path) -> None:
    config, folder = scored(tmp_path)
    write_cards(config)
    text = card(folder, "model")
    assert "| LAS | 0.467 | [" in text  # 7/15, the worked example
    assert "| simulation gain | 0.500 | [" in text
    assert "| accuracy | 0.625 | [0.500, 0.750] |" in text
    assert "On 32 test questions" in text and "another model, random:t5 (trained)," in text
    assert "1,234 rationales for `birds.jsonl`\nand 56 counterfactual ones\n" in text
    assert "(contrastive decoding of SCOTT, Wang et al., ACL 2023, with weight 0.5)" in text
    assert front_matter(text)["license"] == "apache-2.0"


def test_a_student_with_a_chat_template_is_asked_a_question_of_the_test_split(tmp_path: Path) -> None:
    config, folder = scored(tmp_path)
    write_cards(config)
    assert "It has no chat template. It reads a question as `[factual] QUESTION`" in card(folder, "model")
    folder.write_bytes("student/chat_template.jinja", b"")
    write_cards(config)
    assert '"content": "Is “ice” cold?"' in card(folder, "model")


def test_no_figure_is_shown_from_fewer_than_thirty_questions(tmp_path: Path) -> None:
    config, folder = scored(tmp_path, times=3)
    write_cards(config)
    assert "| LAS | not measured (n = 24) | - |" in card(folder, "model")
    assert "0.625" not in card(folder, "model")


def test_a_student_that_was_not_scored_says_how_it_is(tmp_path: Path) -> None:
    config, folder = scored(tmp_path)
    folder.delete("simulations")
    write_cards(config)
    assert "Nothing yet: `cotray score` measures it." in card(folder, "model")


def test_the_settings_of_a_card_make_the_same_run_again(tmp_path: Path) -> None:
    config, folder = scored(tmp_path, seed=7, ray={"num_cpus": 3}, teacher={"num_demonstrations": 2})
    write_cards(config)
    for name in ("model", "dataset"):
        block = card(folder, name).split("```yaml\n")[1].split("```")[0]
        again = parse_config(yaml.safe_load(block))
        same = {"run_dir": f"runs/{config.method}", "ray": RunConfig().ray}
        assert again == config.model_copy(update=same)
        assert "num_cpus" not in block  # which says something about a machine, and nothing about the run


def test_measures_are_shown_only_of_the_rationales_that_are_there(tmp_path: Path) -> None:
    config, folder = scored(tmp_path)
    rationales = folder.require("rationales", "generate")
    metrics = {"n": 3, "novel": {"mean": 0.25, "ci95": (0.125, 0.5), "quantiles": [], "n": 3}}
    finish(folder, "assessments", [], Record, metrics=metrics, input=rationales.fingerprint)
    write_cards(config)
    assert "| `novel` | 0.250 | [0.125, 0.500] | 3 |" in card(folder, "dataset")
    assert "| `novel` | 0.250 | [0.125, 0.500] | 3 |" in card(folder, "model")
    finish(folder, "assessments", [], Record, metrics=metrics, input="of others")
    write_cards(config)
    assert "novel" not in card(folder, "dataset")


def test_cards_are_outside_what_verify_compares(tmp_path: Path) -> None:
    config, _ = scored(tmp_path)
    before = verify(config)
    write_cards(config)
    assert verify(config) == before


def test_where_nothing_is_trained_there_is_no_card_of_a_student(tmp_path: Path) -> None:
    config, folder = scored(tmp_path)
    write_cards(config.model_copy(update={"method": "few-shot"}))
    assert card(folder, "dataset")
    with pytest.raises(DataError, match="no such file"):
        card(folder, "model")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-4.0\ntags: [a]\n---\n# A model", "cc-by-4.0"),
        ("# A model without front matter\n---\n", None),
        ("---\nlicense: [broken\n---\n", None),
        ("---\nlicense: mit", None),
        ("---\n- mit\n---\n", None),
    ],
)
def test_the_licence_of_a_folder_is_that_of_its_card(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence


def test_sentences_name_a_folder_without_its_path_and_a_model_of_the_world_without_its_settings(
    tmp_path: Path,
) -> None:
    config, folder = scored(tmp_path)
    settings = {"model": "world:simulator?seed=3&leak=0.5", "mode": "trained"}
    finish(folder, "simulator", [], Record, settings=settings)
    metrics = {"factual": 3, "counterfactual": 0}
    finish(folder, "student", [], Record, settings={"model": "/home/me/models/small"}, metrics=metrics)
    write_cards(config)
    text = card(folder, "model")
    assert "# small, taught to explain by random:llama\n" in text and "/home/me" not in text
    assert "another model, world:simulator (trained)," in text
    assert "small, from which the weights were trained: not known to cotray" in text


def test_rationales_that_people_wrote_are_called_so(tmp_path: Path) -> None:
    config, folder = scored(tmp_path)
    settings = {"method": "human", "kinds": ["factual"]}
    finish(
        folder,
        "rationales",
        [Rationale("q", "open", "Q?", (), "a", rationale="R.")],
        Rationale,
        settings=settings,
    )
    write_cards(config.model_copy(update={"method": "human"}))
    assert "People wrote them: they came with the questions." in card(folder, "dataset")
    assert "- people, on whose texts: that of the data" in card(folder, "model")


def test_the_licence_of_a_model_elsewhere_is_left_to_its_page(tmp_path: Path) -> None:
    assert licence_of("somebody/large-model") is None
    assert licence_of("s3://bucket/model") is None
    assert licence_of("embedded:smollm2-135m-instruct") == "apache-2.0"
