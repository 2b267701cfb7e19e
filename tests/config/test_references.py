"""`${NAME}`: the value arrives unchanged, and only the reference is shown and written."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cotray.commands.command import reported
from cotray.config import dump_config, load_config, parse_config, references
from cotray.config.file import read_tree
from cotray.config.reference import annotated
from cotray.config.references import Reference, hidden, keep_hidden
from cotray.config.sweep import load_sweep
from cotray.errors import ConfigError, StageError
from cotray.inference.engine_arguments import typed
from cotray.stages.endpoint import endpoint_metrics
from cotray.stages.generate import settings_of
from cotray.storage.manifest import Manifest, changes, dumped, parsed
from cotray.storage.run_folder import RunFolder

HOSTILE = [
    "@sec:ret%", "/data/run #1", "12345678", "0x1F", "1e3", "true", "null", "~", "", " padded ", "a: b",
    "- item", "[1, 2]", "{a: 1}", "'single'", '"double"', "two\nlines\n", "tab\tend", "&anchor *alias", "|",
    "%TAG", "!!python/object", "a # b", "$HOME ${HOME}", "back\\slash", "ünïcode", "2024-01-01",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_hidden_before_or_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes this process hide, the messages of later tests would show as a reference."""
    monkeypatch.setattr(references, "_KNOWN", {})


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        "run_dir: ${COTRAY_T_DIR:-runs/x}/deep\n"
        "data: {limit: '${COTRAY_T_LIMIT:-7}', path: sample}\n"
        "teacher:\n"
        "  engine: fake\n"
        "  engine_args: {hf_token: '${COTRAY_T_TOKEN}', nested: {list: ['${COTRAY_T_TOKEN}']}}\n"
    )
    return path


@pytest.mark.parametrize("value", HOSTILE)
def test_whatever_a_variable_holds_arrives_as_it_is(value, tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_T", value)
    path = tmp_path / "c.yaml"
    path.write_text("data: {path: '${COTRAY_T}'}\nteacher: {engine_args: {key: '${COTRAY_T}'}}\n")
    config = load_config(path, ["teacher.instructions=<${COTRAY_T}>"])
    assert config.data.path == value
    assert config.teacher.engine_args["key"] == value
    assert config.teacher.instructions == f"<{value}>"
    # And a whole round through the file that is written.
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_the_type_is_that_of_the_key(tmp_path, monkeypatch):
    for name, value in {"N": "12", "F": "1e-4", "B": "true", "A": "auto", "P": "0.25"}.items():
        monkeypatch.setenv(f"COTRAY_T_{name}", value)
    path = tmp_path / "c.yaml"
    path.write_text(
        "data: {path: '${COTRAY_T_N}', limit: '${COTRAY_T_N}'}\n"
        "teacher: {record_scores: '${COTRAY_T_B}', decoding: {plausibility: '${COTRAY_T_P}'}}\n"
        "student: {training: {learning_rate: '${COTRAY_T_F}', seed: '${COTRAY_T_N}', "
        "precision: '${COTRAY_T_A}'}}\n"
    )
    config = load_config(path)
    assert (config.data.path, config.data.limit) == ("12", 12)
    assert config.teacher.record_scores is True and config.teacher.decoding.plausibility == 0.25
    training = config.student.training
    assert (training.learning_rate, training.seed, training.precision) == (1e-4, 12, "auto")


def test_what_is_written_and_printed_has_the_references(configuration, monkeypatch):
    monkeypatch.setenv("COTRAY_T_TOKEN", "tok-ab:cd#ef")
    monkeypatch.setenv("COTRAY_T_DIR", "/scratch/me")
    config = load_config(configuration).for_method("greedy")
    assert config.run_dir == "/scratch/me/deep/greedy"
    for text in (dump_config(config), annotated(config)):
        assert "tok-ab" not in text and "/scratch/me" not in text
        tree = yaml.safe_load(text)
        assert tree["run_dir"] == "${COTRAY_T_DIR:-runs/x}/deep/greedy"
        assert tree["data"]["limit"] == "${COTRAY_T_LIMIT:-7}"
        assert tree["teacher"]["engine_args"]["nested"] == {"list": ["${COTRAY_T_TOKEN}"]}
    assert "tok-ab" not in repr(config.teacher) and "tok-ab" not in str(config)


def test_a_changed_part_is_written_as_it_is_now(configuration, monkeypatch):
    monkeypatch.setenv("COTRAY_T_TOKEN", "tok-abcdef")
    config = load_config(configuration).model_copy(update={"run_dir": "elsewhere"})
    assert yaml.safe_load(dump_config(config))["run_dir"] == "elsewhere"


def test_a_manifest_knows_another_value_without_having_either():
    def settings(token: str) -> dict:
        keys = {"engine": "openai", "model": "m", "endpoint": {"base_url": "http://localhost/v1"}}
        reference = Reference(token, "${COTRAY_T_TOKEN}")
        config = parse_config({"teacher": {**keys, "engine_args": {"user": reference}}, "method": "greedy"})
        return settings_of(config)

    one, other = settings("first-value"), settings("second-value")
    manifest = Manifest("rationales", one, "input", 1, 1, 0)
    written = dumped(manifest)
    assert b"first-value" not in written and b"${COTRAY_T_TOKEN}#" in written
    read = parsed(Manifest, written, where="here")
    assert read.fingerprint == manifest.fingerprint
    assert changes(read, settings("first-value"), "input") == []
    (change,) = changes(read, other, "input")
    assert change.startswith("teacher.fields.user: ${COTRAY_T_TOKEN}#") and "second-value" not in change
    assert Manifest("rationales", other, "input", 1, 1, 0).fingerprint != manifest.fingerprint


def test_an_endpoint_with_a_token_in_its_path_is_recorded_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_T_TENANT", "tenant-4711")
    path = tmp_path / "c.yaml"
    path.write_text(
        f"run_dir: {tmp_path}/run\nteacher: {{engine: openai, model: m, "
        "endpoint: {base_url: 'https://host/${COTRAY_T_TENANT}/v1'}}\n"
    )
    config = load_config(path)
    assert config.teacher.endpoint is not None
    assert config.teacher.endpoint.base_url == "https://host/tenant-4711/v1"
    metrics = endpoint_metrics(config, RunFolder(config.run_dir), "rationales")
    assert metrics["endpoint"]["base_url"] == "https://host/${COTRAY_T_TENANT}/v1"
    assert hidden("no connection to https://host/tenant-4711/v1") == (
        "no connection to https://host/${COTRAY_T_TENANT}/v1"
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("seed", "seed: Input should be a valid integer"),
        ("data.limit", "data.limit: Input should be a valid integer"),
        ("data.format", "is no known layout"),
        ("data.world.tasks", "data.world.tasks"),
        ("method", "method: Input should be 'greedy'"),
        ("teacher.model", "are world:teacher"),
        ("serving.students", "serving.students"),
        ("no_such_key", "unknown key"),
        ("storage.endpoint_url", "storage.endpoint_url"),
    ],
)
def test_no_problem_shows_the_value(key, said, tmp_path, monkeypatch):
    value = "world:@sec:ret%" if key == "teacher.model" else "@sec:ret%\n'quoted'"
    monkeypatch.setenv("COTRAY_T", value)
    path = tmp_path / "c.yaml"
    path.write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [f"{key}=${{COTRAY_T}}"])
    assert said in str(caught.value) and "ret%" not in str(caught.value)


@pytest.mark.parametrize("error", [StageError, ZeroDivisionError])
def test_no_later_error_shows_it_either(error, configuration, monkeypatch, capsys):
    monkeypatch.setenv("COTRAY_T_TOKEN", "tok-1234567")

    def work() -> str:
        token = load_config(configuration).teacher.engine_args["hf_token"]
        raise error(f"the engine says: {token} is wrong")

    assert reported(work) == 1
    said = capsys.readouterr().err
    assert "the engine says: ${COTRAY_T_TOKEN} is wrong" in said and "tok-1234567" not in said


@pytest.mark.parametrize(
    "override",
    [
        "storage.endpoint_url=http://minio:pass-word@localhost:9000",
        "storage.endpoint_url=http://token-pass-word@localhost:9000",
        "data.path=s3://key:pass-word@bucket/x",
        "run_dir=https://me:pass-word@host/x",
        "teacher.engine_args.hf_token=pass-word",
        "serving.engine_args.api_key=pass-word",
        "teacher.endpoint.base_url=https://me:pass-word@host/v1",
    ],
)
def test_a_secret_that_would_be_written_as_it_is_is_refused_and_not_shown(override, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    message = str(caught.value)
    assert override.partition("=")[0] in message and "environment" in message
    assert "pass-word" not in message


def test_a_password_in_a_url_is_refused_also_where_it_is_a_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_T", "pass-word")
    path = tmp_path / "c.yaml"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"storage\.endpoint_url: has a user name or password"):
        load_config(path, ["storage.endpoint_url=http://me:${COTRAY_T}@localhost:9000"])


def test_an_address_in_a_text_is_no_password(tmp_path):
    config = parse_config({"teacher": {"instructions": "Write to me@example.org or see https://a.org/@me"}})
    assert "me@example.org" in config.teacher.instructions


def test_a_sweep_passes_on_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_T_TOKEN", "tok-1234567")
    (tmp_path / "c.yaml").write_text("teacher: {engine: fake}\n")
    (tmp_path / "sweep.yaml").write_text(
        f"config: c.yaml\nrun_dir: {tmp_path}/runs\n"
        "base: {teacher.engine_args.hf_token: '${COTRAY_T_TOKEN}'}\n"
        "cells: {a: {teacher.instructions: '${COTRAY_T_TOKEN}'}}\nvary: {data.path: ['${COTRAY_T_TOKEN}']}\n"
    )
    sweep, cells = load_sweep(tmp_path / "sweep.yaml")
    for cell in cells:
        for config in cell.configs:
            assert config.teacher.engine_args["hf_token"] == "tok-1234567"
            assert "tok-1234567" not in dump_config(config) and "tok-1234567" not in config.run_dir
    assert "tok-1234567" not in json.dumps([sweep.model_dump(mode="json"), [cell.label for cell in cells]])


def test_a_reference_crosses_processes_and_is_hidden_there(monkeypatch):
    reference = Reference("secret-value-1", "${COTRAY_T}")
    sent = pickle.dumps(reference)
    assert pickle.loads(sent).written == "${COTRAY_T}"
    assert hidden("got secret-value-1!") == "got ${COTRAY_T}!"


def test_what_is_hidden_is_hidden_in_quotes_too_and_short_values_are_left_alone():
    keep_hidden(Reference("a'b\n\"c", "${COTRAY_QUOTED}"))
    keep_hidden(Reference("7", "${COTRAY_SHORT}"))
    keep_hidden(Reference("null", "${COTRAY_WORD}"))
    assert hidden(f"in a message {'a' + chr(39) + 'b' + chr(10) + chr(34) + 'c'!r}").endswith(
        "${COTRAY_QUOTED}'"
    )
    assert hidden("17 of 27") == "17 of 27" and hidden("/dev/null") == "/dev/null"


def test_an_engine_gets_its_own_types_and_its_log_the_reference():
    @dataclass
    class Arguments:
        max_len: int | None = None
        share: float = 0.9
        eager: bool = False
        token: bool | str | None = None

    values = {"max_len": "2048", "share": "0.5", "eager": "true", "token": "tok-1234567"}
    given = {name: Reference(value, f"${{{name}}}") for name, value in values.items()}
    found = typed(given | {"other": 3}, Arguments, key="teacher.engine_args")
    assert (found["max_len"], found["share"], found["eager"], found["other"]) == (2048, 0.5, True, 3)
    assert found["token"] == "tok-1234567" and repr(found["token"]) == "'${token}'"
    with pytest.raises(ConfigError) as caught:
        typed({"max_len": Reference("tok-x", "${LEN}")}, Arguments, key="teacher.engine_args")
    assert "teacher.engine_args.max_len: ${LEN} is" in str(caught.value) and "tok-x" not in str(caught.value)


def test_keys_that_are_kept_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_T", "value")
    path = tmp_path / "c.yaml"
    path.write_text("a: ${COTRAY_T}\nb: {c: '${COTRAY_T}'}\n")
    assert read_tree(path, [], kept=["b"]) == {"a": "value", "b": {"c": "${COTRAY_T}"}}
