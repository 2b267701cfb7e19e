"""`assess` on a real cluster: every draw once, resumable; and what `train` does with the scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from assessing import NUM_DRAWS, RULES, config_of, key
from interrupting import interrupt, replace_rows

from cotray.commands.train_pairs import main as train_pairs_job
from cotray.config.pairs import load_pairs
from cotray.errors import ConfigError, DataError, StageError
from cotray.prompts.qa_pairs import QuestionAnswer
from cotray.quality.qa_model import QAModel
from cotray.quality.quals import QualsScorer
from cotray.records import Assessment, Rationale
from cotray.stages.assess import assess
from cotray.stages.generate import generate
from cotray.stages.prepare import prepare
from cotray.stages.run import assess_verb
from cotray.stages.train import train
from cotray.stages.train_pairs import is_in_dev
from cotray.storage.run_folder import DeadLetter, RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]


def test_every_draw_of_every_request_is_assessed_once_in_the_order_of_the_rationales(assessed: Path) -> None:
    folder = RunFolder(str(assessed))
    rationales = list(folder.read_records("rationales", Rationale))
    rows = list(folder.read_records("assessments", Assessment))
    assert len(set(map(key, rows))) == len(rows) and {row.sample for row in rows} == {0, 1}
    assert [key(r) for r in rows] == [key(r) for r in rationales]
    assert [row.rationale for row in rows] == [row.rationale for row in rationales]
    assert [row.num_words for row in rows] == [len(row.rationale.split()) for row in rationales]
    assert all(row.num_pairs is not None for row in rows)
    manifest = folder.require("assessments", "assess")
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (len(rows), len(rows), 0)
    assert manifest.metrics["num_words"]["n"] == 24 * NUM_DRAWS


def test_an_interrupted_stage_makes_what_is_missing_and_ends_with_the_same_rows(assessed: Path) -> None:
    folder, config = RunFolder(str(assessed)), config_of(assessed)
    straight = list(folder.read_records("assessments", Assessment))
    # One draw of a request is there and the other is not.
    interrupt(folder, "assessments", straight[7:], Assessment)
    assess(config)
    assert list(folder.read_records("assessments", Assessment)) == straight


def test_a_finished_stage_is_skipped_and_the_verb_shows_its_figures(assessed: Path) -> None:
    before = (assessed / "assessments/.stage/manifest.json").stat().st_mtime_ns
    shown = assess_verb(config_of(assessed), False)
    assert "88 in, 88 out" in shown and "num_words" in shown
    assert (assessed / "assessments/.stage/manifest.json").stat().st_mtime_ns == before


def test_train_leaves_out_and_weighs_down_what_the_rules_catch(assessed: Path) -> None:
    config = config_of(assessed, rules=RULES)
    manifest = train(config)
    folder = RunFolder(str(assessed))
    assert manifest.input == folder.require("assessments", "assess").fingerprint
    rows = [row for row in folder.read_records("assessments", Assessment) if row.split == "train"]
    by_kind = [sum(row.kind == kind for row in rows) for kind in ("factual", "counterfactual")]
    selection = manifest.metrics["selection"]
    assert selection["dropped"] == sum(n // 2 for n in by_kind)
    assert selection["down_weighted"] == sum(n // 4 for n in by_kind)
    assert [manifest.metrics[kind] for kind in ("factual", "counterfactual")] == [n - n // 2 for n in by_kind]
    assert len(selection["rules"][0]["examples"]) == 5


@pytest.mark.long
def test_rows_that_fail_are_dead_letters_and_too_many_are_tried_again(tmp_path: Path, assessed: Path) -> None:
    """A text longer than the model's window of 4096 bytes cannot be read by it."""
    config = config_of(tmp_path / "run", model="random:gpt2")
    prepare(config)
    generate(config)
    folder = RunFolder(config.run_dir)
    rows = list(folder.read_records("rationales", Rationale))
    long = [replace(row, rationale="rain " * 1000) for row in rows]
    replace_rows(folder, "rationales", long, Rationale)
    with pytest.raises(StageError, match=r"of \d+ rows failed \(\d+ x .*max_error_rate=0.5"):
        assess(config)
    assert folder.manifest("assessments") is None
    replace_rows(folder, "rationales", [*rows[:3], long[3], *rows[4:]], Rationale)
    manifest = assess(config)
    assert (manifest.num_out, manifest.num_dead) == (len(rows) - 1, 1)
    (letter,) = folder.read_records("dead_letter", DeadLetter)
    assert (letter.stage, letter.id, letter.attempts) == ("assessments", rows[3].id, 3)


def test_assess_before_its_time_and_without_measures_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"assessing\.measures is empty"):
        assess(config_of(tmp_path, measures=[]))
    with pytest.raises(DataError, match=r"cotray prepare"):
        assess(config_of(tmp_path))


def test_train_refuses_scores_that_are_missing_or_of_other_settings_or_rationales(
    tmp_path: Path, assessed: Path
) -> None:
    config = config_of(tmp_path / "run", rules=RULES)
    prepare(config)
    generate(config)
    with pytest.raises(DataError, match=r"run `cotray assess` first"):
        train(config)
    with pytest.raises(StageError, match="max_new_tokens: 4 -> 5"):
        train(config_of(assessed, rules=RULES, max_new_tokens=5))
    shutil.copytree(assessed / "assessments", tmp_path / "run" / "assessments")
    manifest = tmp_path / "run" / "assessments/.stage/manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"input": "another"}))
    with pytest.raises(StageError, match="its input changed"):
        train(config)


@pytest.mark.long
def test_a_split_alone_is_assessed_and_another_run_of_the_same_rationales_takes_the_scores_over(
    assessed: Path, tmp_path: Path
) -> None:
    """Scores of factual rationales serve a run that has counterfactual ones too, not the other way."""
    factual, both = tmp_path / "factual", tmp_path / "both"
    options = {"measures": ["surface"], "splits": ["test"]}
    for run_dir, method in ((factual, "contrast-wrong"), (both, "contrast-wrong+counterfactual")):
        config = config_of(run_dir, **options).model_copy(update={"method": method})
        prepare(config)
        generate(config)
        assess(config, reuse_from=[str(assessed), str(factual)] if run_dir == both else [])
    rows = [
        list(RunFolder(str(run_dir)).read_records("assessments", Assessment)) for run_dir in (factual, both)
    ]
    # Counterfactual rationales are of the train split.
    assert rows[0] and rows[0] == rows[1] and {row.split for row in rows[0]} == {"test"}
    made = [
        RunFolder(str(run_dir)).require("assessments", "assess").metrics["last_run"]["made"]
        for run_dir in (factual, both)
    ]
    assert made == [len(rows[0]), 0]


PASSAGES = {
    "Rain falls from clouds.": [("What falls?", "Rain"), ("Whence?", "clouds")],
    "Ice is frozen water.": [("What is frozen?", "Ice"), ("What is ice?", "frozen water")],
    "Bees make honey in June.": [("Who makes honey?", "Bees"), ("When?", "June")],
    "Rome lies on the Tiber.": [("Which river?", "the Tiber"), ("What town?", "Rome")],
}
TRUE = [[QuestionAnswer(*pair) for pair in pairs] for pairs in PASSAGES.values()]


def train_on_passages(folder: Path, *overrides: str) -> tuple[Path, list[str]]:
    """The job on the pairs above and one row that cannot be used; the model's folder and the arguments."""
    rows = [
        {"context": passage, "question": question, "answers": {"text": [answer]}}
        for passage, pairs in PASSAGES.items()
        for question, answer in [*pairs, *([("Why?", "snow")] if passage.startswith("Rain") else [])]
    ]
    (folder / "squad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "pairs.yaml").write_text(
        "{model: random:llama, training: {learning_rate: 0.005, batch_size: 4, precision: float32, "
        "num_workers: 1}}"
    )
    out = folder / "model"
    arguments = ["-c", f"{folder}/pairs.yaml", "--data", f"{folder}/squad.jsonl", "--out", str(out)]
    return out, [*arguments, *overrides]


def test_a_model_trained_on_pairs_tells_true_ones_from_swapped_ones_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, arguments = train_on_passages(tmp_path, "dev_fraction=0", "training.epochs=60")
    assert train_pairs_job(arguments) == 0
    summary = capsys.readouterr().out
    assert f"{out}: 9 in, 8 out, 1 dead letters" in summary
    assert "8 pairs to learn, 0 in dev, 120 steps, dev loss none" in summary
    model = QAModel(str(out), num_demonstrations=0)
    texts = list(PASSAGES)
    swapped = [[QuestionAnswer(a.question, b.answer), QuestionAnswer(b.question, a.answer)] for a, b in TRUE]
    scores = [model.mean_logprobs(texts, pairs) for pairs in (TRUE, swapped)]
    for true, false in zip(*scores, strict=True):
        assert min(true) > max(false) + 0.5
    scorer = QualsScorer(model, num_groups=4, strength=0.5, max_pairs=4, max_new_tokens=48)
    for written, true in zip(scorer.pairs(texts), TRUE, strict=True):
        assert set(written) & set(true)


def test_the_dev_loss_of_training_is_minus_the_score_of_the_dev_pairs_per_token(tmp_path: Path) -> None:
    overrides = ["dev_fraction=0.5", "training.epochs=2", "seed=1"]
    out, arguments = train_on_passages(tmp_path, *overrides)
    assert train_pairs_job(arguments) == 0
    manifest = RunFolder(str(out)).require("training", "train_pairs")
    config = load_pairs(tmp_path / "pairs.yaml", overrides)
    dev = {p: pairs for p, pairs in zip(PASSAGES, TRUE, strict=True) if is_in_dev(p, config)}
    assert 0 < len(dev) < 4 and manifest.metrics["dev"] == 2 * len(dev)
    model = QAModel(str(out), num_demonstrations=0)
    scores = model.mean_logprobs(list(dev), list(dev.values()))
    lengths = [[len(model.pair_ids(pair)) for pair in pairs] for pairs in dev.values()]
    sums = [s * n for row, ns in zip(scores, lengths, strict=True) for s, n in zip(row, ns, strict=True)]
    assert manifest.metrics["best_dev_loss"] == pytest.approx(-sum(sums) / sum(map(sum, lengths)), rel=1e-4)
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert train_pairs_job(arguments) == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert train_pairs_job([*arguments, "seed=7"]) == 1
