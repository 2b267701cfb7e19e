"""Reading from and writing to S3, against a server in this process; AWS_ENDPOINT_URL is what users set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cotray.config import DataConfig, parse_config
from cotray.data.prepare import prepare
from cotray.data.readers import input_fingerprint, read_rows
from cotray.errors import DataError
from cotray.models.locations import model_path, weights_identity
from cotray.records import TeacherRequest
from cotray.storage.run_folder import RunFolder

moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def s3() -> Iterator:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3")
        client.create_bucket(Bucket="cotray-test")
        yield client
    server.stop()


def put(s3, key: str, *ids: str) -> None:
    rows = [
        {"id": i, "question": "Fly?", "answer": "yes", "split": "test" if i == "t" else "train"} for i in ids
    ]
    body = "".join(json.dumps(row) + "\n" for row in rows)
    s3.put_object(Bucket="cotray-test", Key=key, Body=body.encode())


def test_a_file_and_a_folder_on_s3_are_read(s3):
    put(s3, "in/b.jsonl", "b")
    put(s3, "in/sub/a.jsonl", "t", "c")
    origins = [origin for origin, _ in read_rows(DataConfig(path="s3://cotray-test/in"))]
    assert origins == ["b.jsonl:1", "sub/a.jsonl:1", "sub/a.jsonl:2"]
    origins = [origin for origin, _ in read_rows(DataConfig(path="s3://cotray-test/in/b.jsonl"))]
    assert origins == ["b.jsonl:1"]


@pytest.mark.parametrize("path", ["s3://no-such-bucket/a.jsonl", "s3://cotray-test/no.jsonl"])
def test_a_missing_object_or_bucket_is_one_line(s3, path):
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_rows(DataConfig(path=path)))


def test_the_fingerprint_on_s3_follows_the_size(s3):
    config = DataConfig(path="s3://cotray-test/print.jsonl")
    put(s3, "print.jsonl", "a")
    before = input_fingerprint(config)
    assert input_fingerprint(config) == before
    put(s3, "print.jsonl", "a", "b")
    assert input_fingerprint(config) != before


def test_a_run_folder_on_s3_goes_through_all_its_states(s3):
    folder = RunFolder("s3://cotray-test/states/")
    assert folder.manifest("requests") is None
    states = [
        folder.begin("requests", settings={"a": 1}, input="x", overwrite=False),
        folder.begin("requests", settings={"a": 1}, input="x", overwrite=False),
        folder.begin("requests", settings={"a": 2}, input="x", overwrite=True),
    ]
    assert states == ["begin", "resume", "begin"]
    folder.append_metrics([{"loss": 1.0}])
    folder.append_metrics([{"loss": 0.5}])
    assert folder.read_bytes("metrics.jsonl") == b'{"loss": 1.0}\n{"loss": 0.5}\n'
    with pytest.raises(DataError, match="s3://cotray-test/states/nothing: no such file"):
        folder.read_bytes("nothing")


def test_prepare_runs_from_s3_to_s3_and_is_done_the_second_time(s3):
    put(s3, "set/a.jsonl", "t", "x", "y", "x")
    config = parse_config({"data": {"path": "s3://cotray-test/set"}})
    folder = RunFolder("s3://cotray-test/run")
    manifest = prepare(config, folder)
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (4, 3, 1)
    assert prepare(config, folder) == manifest
    assert [r.id for r in folder.read_records("requests", TeacherRequest)] == ["t", "x", "x", "y", "y"]
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="cotray-test", Prefix="run/")["Contents"]]
    assert [key for key in keys if not key.endswith("/")] == [
        "run/dead_letter/requests-part-00000.parquet",
        "run/requests/.stage/manifest.json",
        "run/requests/part-00000.parquet",
    ]


def test_a_model_that_was_trained_again_is_downloaded_again(s3, tmp_path):
    """Serving after `train --overwrite` must not go on with the weights of before."""

    def config_of(num_layers: int) -> str:
        s3.put_object(
            Bucket="cotray-test", Key="run/student/config.json", Body=b'{"layers": %d}' % num_layers
        )
        return (Path(model_path("s3://cotray-test/run/student", cache=tmp_path)) / "config.json").read_text()

    assert config_of(6) == '{"layers": 6}'
    assert config_of(12) == '{"layers": 12}'
    model_path("s3://cotray-test/run/student", cache=tmp_path)
    assert len(list(tmp_path.glob("*/config.json"))) == 2


def test_weights_on_s3_are_known_by_their_content(s3):
    def identity(content: bytes) -> str:
        s3.put_object(Bucket="cotray-test", Key="weights/model.safetensors", Body=content)
        return weights_identity("s3://cotray-test/weights/")

    first = identity(b"one")
    assert identity(b"two") != first
    assert identity(b"one") == first
