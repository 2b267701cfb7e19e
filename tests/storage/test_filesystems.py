"""Object storage that throttles, loses connections or refuses: what is survived, what is said if not."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions as boto_errors
from botocore.exceptions import ClientError
from s3_server import Faults, Server, serve

from cotray.cli import job
from cotray.config import DataConfig
from cotray.data.readers import read_rows
from cotray.errors import DataError
from cotray.models.locations import model_path
from cotray.storage import s3
from cotray.storage.checkpoints import as_folder, complete, newest, publish
from cotray.storage.filesystems import NUM_RETRIES, with_retries
from cotray.storage.run_folder import DeadLetter, RunFolder

ROOT = Path(__file__).parents[2]
BUCKET = "cotray-storage"
FOLDER = f"s3://{BUCKET}/run"
BOUND_S = 10
LARGE = bytes(range(256)) * (12 << 12)  # 12 MiB: a multipart upload of two parts
ONE_PART = LARGE[: 8 << 20]
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "right",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        create_bucket(server.url)
        yield server


@pytest.fixture
def server(running: Server, monkeypatch) -> Iterator[Server]:
    """Without faults and counts of earlier tests; where AWS_ENDPOINT_URL says."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    running.num_requests.clear()
    yield running
    vars(running.faults).update(vars(Faults()))


def create_bucket(url: str) -> None:
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)


def error_of(action, *arguments) -> str:
    """The one line of the DataError, which must come within the bound."""
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        action(*arguments)
    assert time.perf_counter() - start < BOUND_S
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    return str(caught.value)


OPERATIONS = {
    "exists": lambda folder: folder.exists("a"),
    "write": lambda folder: folder.write_bytes("a", b"x"),
    "write-large": lambda folder: folder.write_bytes("a", LARGE),
    "read": lambda folder: folder.read_bytes("a"),
    "list": lambda folder: folder.parquet_files("a"),
    "records": lambda folder: list(folder.read_records("a", DeadLetter)),
    "delete": lambda folder: folder.delete("a"),
    "manifest": lambda folder: folder.manifest("a"),
}


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_throttled_requests_are_repeated(server, data):
    folder = RunFolder(FOLDER)
    server.faults.throttle_next = 3
    folder.write_bytes("throttled", data)
    for method in ("HEAD", "GET"):
        server.faults.throttle_next, server.faults.throttled_methods = 3, (method,)
        assert folder.read_bytes("throttled") == data


def test_a_small_file_is_one_request_to_write_and_one_to_read(server):
    RunFolder(FOLDER).write_bytes("one", b"small")
    assert server.num_requests == {"PUT": 1}
    assert RunFolder(FOLDER).read_bytes("one") == b"small"
    assert server.num_requests == {"PUT": 1, "GET": 1}


def client_error(code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    "problem",
    [
        client_error("InternalError", 500),
        client_error("502", 502),
        client_error("429", 429),
        boto_errors.ConnectTimeoutError(endpoint_url="http://s3"),
        boto_errors.EndpointConnectionError(endpoint_url="http://s3"),
        boto_errors.FlexibleChecksumError(error_msg="cut"),
    ],
    ids=lambda problem: type(problem).__name__ + str(problem)[19:24],
)
def test_what_passes_is_tried_again_and_waited_for(problem: Exception, server, monkeypatch) -> None:
    RunFolder(FOLDER).write_bytes("busy", b"small")
    real, failures = s3._client_of, [problem] * (2 + NUM_RETRIES)

    def client_of(*address: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*address, **options)

    monkeypatch.setattr(s3, "_client_of", client_of)
    monkeypatch.setattr(s3.time, "sleep", lambda _: None)
    assert with_retries(partial(RunFolder(FOLDER).read_bytes, "busy"), waits_s=(0,)) == b"small"
    assert not failures


def test_a_file_too_large_for_one_request_is_read_in_parts(server, monkeypatch):
    RunFolder(FOLDER).write_bytes("parts", LARGE)
    monkeypatch.setattr("cotray.storage.s3.MAX_WHOLE_BYTES", len(LARGE) - 1)
    with RunFolder(FOLDER).fs.open_input_file(f"{BUCKET}/run/parts") as file:
        assert file.size() == len(LARGE)
    assert RunFolder(FOLDER).read_bytes("parts") == LARGE


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_download_whose_connection_is_cut_is_begun_again(server, data):
    RunFolder(FOLDER).write_bytes("cut", data)
    server.faults.cut_next = 3
    assert RunFolder(FOLDER).read_bytes("cut") == data
    assert server.faults.cut_next == 0


def test_a_download_whose_connection_is_always_cut_is_an_error(server):
    RunFolder(FOLDER).write_bytes("cut", b"small")
    server.faults.cut_next = 1000
    assert "no connection to the storage" in error_of(RunFolder(FOLDER).read_bytes, "cut")


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_an_upload_whose_connection_is_reset_arrives_whole(server, data):
    server.faults.reset_next = 3
    RunFolder(FOLDER).write_bytes("reset", data)
    assert server.faults.reset_next == 0
    assert RunFolder(FOLDER).read_bytes("reset") == data


def test_a_pickled_filesystem_is_as_patient(server):
    folder = pickle.loads(pickle.dumps(RunFolder(FOLDER)))
    server.faults.throttle_next = NUM_RETRIES - 2
    folder.write_bytes("pickled", b"x")
    assert folder.read_bytes("pickled") == b"x"


@pytest.mark.parametrize("data", [b"new", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("old", [b"old", None], ids=["replaced", "first"])
def test_a_reader_during_an_upload_sees_the_old_file_or_none(server, data, old):
    folder, name = RunFolder(FOLDER), f"during-{len(data)}-{old}"
    if old is not None:
        folder.write_bytes(name, old)
    has_half, may_go_on = threading.Event(), threading.Event()

    def wait(path: str) -> None:
        has_half.set()
        assert may_go_on.wait(60)

    server.faults.in_mid_upload = wait
    writer = threading.Thread(target=folder.write_bytes, args=(name, data))
    writer.start()
    assert has_half.wait(60)
    assert folder.exists(name) == (old is not None)
    if old is not None:
        assert folder.read_bytes(name) == old
    may_go_on.set()
    writer.join(60)
    assert folder.read_bytes(name) == data


def test_a_checkpoint_is_completed_found_and_fetched_while_requests_are_throttled(server, tmp_path):
    """Of its files one is smaller than the server's refusal, which pyarrow cannot read into its place."""
    uri = f"{FOLDER}/checkpoints/x/step-00000001"
    contents = {"small": b"x", "empty": b"", "large": LARGE}
    for worker, names in enumerate((("small", "empty"), ("large",))):
        local = tmp_path / str(worker)
        local.mkdir()
        for name in names:
            (local / name).write_bytes(contents[name])
        publish(str(local), uri, worker)
    server.faults.throttle_share = 0.3
    complete(uri, 2)
    assert newest(uri.rpartition("/")[0]) == (uri, [])
    with as_folder(uri) as folder:
        assert {name: Path(folder, name).read_bytes() for name in contents} == contents


def test_small_throttled_input_is_read(server):
    client = boto3.client("s3", endpoint_url=server.url)
    for name, body in {"a.jsonl": b'{"id": 1}', "b.jsonl.gz": gzip.compress(b'{"id": 2}')}.items():
        client.put_object(Bucket=BUCKET, Key=f"in/{name}", Body=body)
    server.faults.throttle_next, server.faults.throttled_methods = 3, ("GET",)
    rows = [row for _, row in read_rows(DataConfig(path=f"s3://{BUCKET}/in"))]
    assert rows == [{"id": 1}, {"id": 2}]


def test_a_small_read_that_is_throttled_without_end_is_an_error_after_the_last_retry(server):
    folder = RunFolder(FOLDER)
    folder.write_bytes("small", b"x")
    server.num_requests.clear()
    server.faults.throttle_next, server.faults.throttled_methods = 1000, ("GET",)
    assert "overloaded" in error_of(folder.read_bytes, "small")
    assert server.num_requests == {"GET": 1 + NUM_RETRIES}


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_an_upload_whose_connection_is_always_reset_leaves_nothing_under_the_name(server, data):
    folder, name = RunFolder(FOLDER), f"failed-{len(data)}"
    server.faults.reset_next = 1000
    assert "no connection to the storage" in error_of(folder.write_bytes, name, data)
    server.faults.reset_next = 0
    assert not folder.exists(name)


@pytest.mark.parametrize(("method", "data"), [("POST", ONE_PART), ("PUT", ONE_PART), ("PUT", b"small")])
def test_an_upload_that_is_throttled_for_too_long_leaves_nothing_under_the_name(server, method, data):
    """The storage recovers right after: what is left of the upload must not be completed then."""
    folder = RunFolder(FOLDER)
    server.faults.throttle_next, server.faults.throttled_methods = 1 + NUM_RETRIES, (method,)
    name = f"throttled-{method}-{len(data)}"
    assert "overloaded" in error_of(folder.write_bytes, name, data)
    assert server.faults.throttle_next == 0
    assert not folder.exists(name)


@pytest.mark.parametrize("name", ["write", "list"])
def test_throttling_without_end_is_an_error_after_the_last_retry(server, name):
    server.faults.throttle_next = 1000
    message = error_of(OPERATIONS[name], RunFolder(FOLDER))
    assert message.startswith(f"{FOLDER}/a") and "overloaded" in message
    assert server.num_requests.total() == 1 + NUM_RETRIES


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_wrong_credentials_are_named_after_one_request(server, operation):
    server.faults.access_key = "another"
    message = error_of(operation, RunFolder(FOLDER))
    assert message.startswith(f"{FOLDER}/a")
    assert "access denied; check the credentials" in message
    assert server.num_requests.total() == 1


def test_wrong_credentials_are_named_for_the_input_too(server):
    server.faults.access_key = "another"
    message = error_of(list, read_rows(DataConfig(path=f"s3://{BUCKET}/in.jsonl")))
    assert message.startswith(f"s3://{BUCKET}/in.jsonl: ") and "access denied" in message
    assert server.num_requests.total() == 1


def test_wrong_credentials_are_named_for_a_model_too(server, tmp_path):
    server.faults.access_key = "another"
    with pytest.raises(DataError, match=f"s3://{BUCKET}/model: access denied"):
        model_path(f"s3://{BUCKET}/model", cache=tmp_path)


@pytest.mark.parametrize("name", ["write", "write-large"])
def test_a_missing_bucket_is_an_error_and_not_made(server, name):
    message = error_of(OPERATIONS[name], RunFolder("s3://no-such-bucket/run"))
    assert message == "s3://no-such-bucket/run/a: no such bucket; create it or correct the path"
    assert server.num_requests.total() == 1
    buckets = boto3.client("s3", endpoint_url=server.url).list_buckets()["Buckets"]
    assert "no-such-bucket" not in [bucket["Name"] for bucket in buckets]


def test_an_endpoint_where_nothing_listens_is_an_error(monkeypatch, running):
    with serve() as stopped:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stopped.url)
    for name in ("exists", "write"):
        message = error_of(OPERATIONS[name], RunFolder(FOLDER))
        assert "no connection to the storage; check storage.endpoint_url" in message


def test_a_folder_on_s3_needs_no_markers(server):
    folder = RunFolder(f"{FOLDER}/markers")
    folder.write_bytes("deep/er/a", b"x")
    folder.write_bytes("deep/b", b"x")
    keys = boto3.client("s3", endpoint_url=server.url).list_objects_v2(Bucket=BUCKET, Prefix="run/markers")
    assert [item["Key"] for item in keys["Contents"]] == ["run/markers/deep/b", "run/markers/deep/er/a"]
    assert folder.exists("deep") and folder.exists("deep/er")
    folder.delete("deep")
    assert not folder.exists("deep") and not folder.exists("deep/er/a")
    folder.delete("deep")


def test_keys_are_taken_literally(server):
    folder = RunFolder(f"{FOLDER}/a b%20c?d=e")
    folder.write_bytes("x", b"x")
    keys = boto3.client("s3", endpoint_url=server.url).list_objects_v2(Bucket=BUCKET, Prefix="run/a b")
    assert [item["Key"] for item in keys["Contents"]] == ["run/a b%20c?d=e/x"]


def test_the_configured_endpoint_wins_over_the_environments(server, tmp_path, monkeypatch, capsys):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "c.yaml").write_text(f"storage: {{endpoint_url: '{server.url}'}}\nrun_dir: {FOLDER}/none")
    assert job("report", ["-c", str(tmp_path / "c.yaml")]) == 2
    assert "nothing is scored yet" in capsys.readouterr().err
    assert server.num_requests.total() > 0


def test_prepare_into_a_missing_bucket_is_one_line_and_exit_code_2(server, tmp_path):
    (tmp_path / "c.yaml").write_text("data: {limit: 8}")
    command = [sys.executable, "-m", "jobs.prepare", "-c", str(tmp_path / "c.yaml")]
    result = subprocess.run([*command, "run_dir=s3://missing/x"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "cotray: run_dir: s3://missing/x: no such bucket; create it or correct the path"
    ]


def test_the_server_runs_as_a_process_that_fails_now_and_then(running, monkeypatch):
    command = [
        sys.executable,
        "-m",
        "tests.support.s3_server",
        "--throttle-share",
        "0.1",
        "--reset-share",
        "0.1",
    ]
    with subprocess.Popen([*command, "--seed", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            create_bucket(url)
            folder = RunFolder(FOLDER)
            for number in range(30):
                folder.write_bytes(f"chaos/{number}", b"%d" % number)
            assert [folder.read_bytes(f"chaos/{n}") for n in range(30)] == [b"%d" % n for n in range(30)]
        finally:
            process.terminate()
