from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cotray.config import RunConfig, dump_config, load_config, parse_config
from cotray.config.training import Workers
from cotray.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "jobs" / "configs").rglob("*.yaml"))


def load(tmp_path: Path, text: str = "", *overrides: str) -> RunConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def error_of(tmp_path: Path, text: str = "", *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_in_the_repository_parses(path):
    load_config(path)


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load(tmp_path) == load(tmp_path, "# nothing\n") == RunConfig()


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("data.pth=x", "data.path"),
        ("sed=1", "seed"),
        ("teacher.decoding.wieght=1", "teacher.decoding.weight"),
        ("student.training.learningrate=1", "student.training.learning_rate"),
        ("teacher.replicas.mx=1", "teacher.replicas.max"),
        ("student.conseq.shares=1", "student.conseq.share"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, override, near):
    key = override.partition("=")[0]
    assert error_of(tmp_path, "", override) == (
        f"{tmp_path}/config.yaml: unknown key '{key}'; did you mean '{near}'?"
    )


def test_an_unknown_key_like_no_other_lists_the_known_ones(tmp_path):
    message = error_of(tmp_path, "ray:\n  zzz: 1\n")
    assert message.endswith("unknown key 'ray.zzz'; known keys: address, num_cpus, object_store_mib")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=many", "seed: Input should be a valid integer"),
        ("data.limit=-1", "data.limit: Input should be greater than or equal to 0 (got -1)"),
        ("data.format=squad", "data.format: 'squad' is no known layout; there are auto, aqua, arc, boolq"),
        ("data.test_fraction=1", "data.test_fraction: Input should be less than 1 (got 1)"),
        ("method=contrast", "method: Input should be 'greedy'"),
        ("methods=[]", "methods: "),
        ("teacher.decoding.plausibility=2", "plausibility must be auto or between 0 and 1"),
        ("teacher.replicas.min=3", "teacher.replicas: max (1) is below min (3)"),
        ("simulator.input_dropout=0.9", "explanation_dropout + input_dropout must not exceed 1"),
        ("storage.endpoint_url=localhost:9000", "storage.endpoint_url: String should match pattern"),
        ("data=sample", "data: "),
        ("student.conseq.share=0", "student.conseq.share: Input should be greater than 0"),
        ("student.conseq.score=copy_rate", "student.conseq.score: Input should be 'num_words'"),
        ("student.conseq.score=sim_x", "student.conseq.score: Input should be 'num_words'"),
    ],
)
def test_a_bad_value_names_key_and_value(tmp_path, override, expected):
    assert expected in error_of(tmp_path, "", override)


def test_fractions_must_leave_rows_to_train_on(tmp_path):
    message = error_of(tmp_path, "", "data.dev_fraction=0.5", "data.test_fraction=0.5")
    assert "dev_fraction + test_fraction must be below 1" in message


def test_conseq_is_off_by_default_and_needs_the_measure_that_it_ranks_by(tmp_path):
    assert RunConfig().student.conseq is None
    assert error_of(tmp_path, "", "student.conseq={}") == (
        f"{tmp_path}/config.yaml: student.conseq ranks by grounded: add quals to assessing.measures, "
        "or choose another student.conseq.score"
    )
    assert "add surface" in error_of(
        tmp_path, "", "student.conseq.score=num_words", "assessing.measures=[quals]"
    )
    conseq = load(tmp_path, "", "student.conseq.share=0.5", "assessing.measures=[quals]").student.conseq
    assert conseq is not None and conseq.model_dump() == {
        "score": "grounded",
        "share": 0.5,
        "num_samples": 6,
        "top_k": 50,
        "epochs": 2,
        "learning_rate": 3e-6,
    }


def test_several_problems_are_told_at_once(tmp_path):
    message = error_of(tmp_path, "seed: x\ndata: {limit: -1}\n")
    assert "seed: " in message and "data.limit: " in message


def test_files_that_are_no_configuration_are_one_line(tmp_path):
    assert "not valid YAML" in error_of(tmp_path, "data: [1\n")
    assert "expected keys and values, found list" in error_of(tmp_path, "- a\n")
    with pytest.raises(
        ConfigError, match=r"no\.yaml: no such configuration file; `cotray init DATA` writes one"
    ):
        load_config(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run_dir: caf\xe9\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_overrides_have_the_types_of_yaml(tmp_path):
    config = load(
        tmp_path,
        "data: {limit: 3}\n",
        "data.limit=48",
        "data.path=s3://bucket/a=b",
        "student.training.learning_rate=1e-4",
        "teacher.record_scores=true",
        "teacher.decoding.plausibility=0.1",
        "methods=[greedy, contrast-wrong]",
        "run_dir=runs/x=y",
    )
    assert config.data.limit == 48
    assert config.data.path == "s3://bucket/a=b"
    assert config.student.training.learning_rate == 1e-4
    assert config.teacher.record_scores is True
    assert config.teacher.decoding.plausibility == 0.1
    assert config.methods == ("greedy", "contrast-wrong")
    assert config.run_dir == "runs/x=y"


def test_an_override_keeps_its_neighbours(tmp_path):
    config = load(tmp_path, "data: {path: a.jsonl, limit: 3}\n", "data.limit=4")
    assert (config.data.path, config.data.limit) == ("a.jsonl", 4)


@pytest.mark.parametrize("override", ["data.limit", "=3", ""])
def test_an_override_without_key_or_value_is_refused(tmp_path, override):
    assert "an override is written KEY=VALUE" in error_of(tmp_path, "", override)


def test_an_override_below_a_value_is_refused(tmp_path):
    assert "seed is a value, not a section" in error_of(tmp_path, "seed: 1\n", "seed.x=2")


def test_environment_variables_are_read_with_their_types(tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_TEST_BUCKET", "s3://b")
    monkeypatch.setenv("COTRAY_TEST_LIMIT", "7")
    monkeypatch.delenv("COTRAY_TEST_UNSET", raising=False)
    text = "run_dir: ${COTRAY_TEST_BUCKET}/runs\ndata: {limit: '${COTRAY_TEST_LIMIT}'}\n"
    config = load(tmp_path, text, "data.path=${COTRAY_TEST_UNSET:-sample}")
    assert (config.run_dir, config.data.limit, config.data.path) == ("s3://b/runs", 7, "sample")


def test_an_unset_environment_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("COTRAY_TEST_UNSET", raising=False)
    message = error_of(tmp_path, "run_dir: ${COTRAY_TEST_UNSET}\n")
    assert "environment variable COTRAY_TEST_UNSET is not set" in message
    assert "${COTRAY_TEST_UNSET:-DEFAULT}" in message


def test_a_dumped_configuration_loads_to_the_same(tmp_path):
    config = parse_config(
        {
            "method": "contrast-hardest+counterfactual",
            "methods": ["greedy"],
            "data": {"path": "s3://b/x", "limit": 5},
            "teacher": {"decoding": {"plausibility": 0.25}, "replicas": {"min": 1, "max": 4}},
        }
    )
    assert load(tmp_path, dump_config(config)) == config
    assert load(tmp_path, dump_config(RunConfig())) == RunConfig()


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().data.limit = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "decoding", "perturbation", "weight"),
    [
        ("greedy", "greedy", "wrong", 0.0),
        ("contrast-empty", "contrast-empty", "empty", 0.0),
        ("contrast-wrong+counterfactual", "contrast-wrong", "wrong", 0.5),
        ("contrast-hardest+counterfactual", "contrast-hardest", "hardest", 0.5),
        ("greedy+counterfactual", "greedy", "wrong", 0.5),
    ],
)
def test_a_method_says_how_to_decode_to_perturb_and_to_weigh(method, decoding, perturbation, weight):
    config = parse_config({"method": method})
    assert (config.decoding_method, config.perturbation) == (decoding, perturbation)
    assert config.counterfactual_weight == weight


def test_each_method_runs_in_a_folder_of_its_own():
    config = parse_config({"run_dir": "runs/a/"}).for_method("greedy")
    assert (config.run_dir, config.method, config.methods) == ("runs/a/greedy", "greedy", ("greedy",))


def test_config_and_records_import_neither_torch_nor_ray():
    code = (
        "import sys, cotray.config, cotray.records, cotray.seeds, cotray.errors\n"
        "print(sorted({'torch', 'ray', 'transformers', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_relative_model_folder_becomes_absolute_and_a_hub_id_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    config = parse_config({"teacher": {"model": "mine"}, "student": {"model": "org/name"}})
    assert config.teacher.model == str(tmp_path / "mine")
    assert config.student.model == "org/name"


@pytest.mark.parametrize("key", ["offload=cpu", "compile=blocks"])
def test_what_is_for_gpus_is_refused_without_them(tmp_path, key):
    path = tmp_path / "run.yaml"
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match=f"{key} .*set num_gpus, or {key.partition('=')[0]} to off"):
        load_config(path, [f"student.training.{key}"])
    config = load_config(path, [f"student.training.{key}", "student.training.num_gpus=1"])
    assert config.student.training.settings() == load_config(path).student.training.settings()


def test_workers_are_a_number_or_a_range_and_no_part_of_the_settings(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("student: {training: {num_workers: 4}}\n")
    assert load_config(path).student.training.num_workers == Workers(min=4, max=4)
    elastic = load_config(path, ["student.training.num_workers={min: 2, max: 8}"])
    assert elastic.student.training.num_workers == Workers(min=2, max=8)
    assert elastic.student.training.settings() == load_config(path).student.training.settings()
    assert parse_config(yaml.safe_load(dump_config(elastic))) == elastic
    for wrong in ("0", "{min: 0, max: 2}", "{min: 3, max: 2}"):
        with pytest.raises(ConfigError, match=r"student\.training\.num_workers"):
            load_config(path, [f"student.training.num_workers={wrong}"])
