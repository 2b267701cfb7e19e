"""Which storage the environment and the configuration name, and how its errors read; no server is needed."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from cotray.config import StorageConfig
from cotray.errors import DataError
from cotray.storage.filesystems import environment, filesystem, reason_of, storage_errors


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_ENDPOINT_URL": "http://a:1"}, "us-east-1"),
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_DEFAULT_REGION": "b"}, "b"),
        ({"AWS_ENDPOINT_URL_S3": "http://a:1", "AWS_DEFAULT_REGION": "b", "AWS_REGION": "c"}, "c"),
    ],
)
def test_the_region_is_the_environments_or_a_default(monkeypatch, variables, region):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3, path = filesystem("s3://bucket/key")
    assert isinstance(s3, pafs.S3FileSystem) and (s3.region, path) == (region, "bucket/key")
    assert pickle.loads(pickle.dumps(s3)).region == region


def test_what_the_configuration_leaves_empty_stays_as_it_is():
    assert environment(StorageConfig()) == {}
    assert environment(StorageConfig(region="r")) == {"AWS_REGION": "r", "AWS_DEFAULT_REGION": "r"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("When x: AWS Error ACCESS_DENIED during HeadObject operation: No body."), "access denied"),
        (
            OSError("AWS Error UNKNOWN (HTTP status 403) during PutObject operation: No body."),
            "access denied",
        ),
        (
            OSError("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation: No body."),
            "storage.region",
        ),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: Slow down"), "overloaded"),
        (
            OSError("When x: AWS Error TEAPOT\n during PutObject: why"),
            "AWS says TEAPOT during PutObject: why",
        ),
        (OSError("When reading key 'SLOW_DOWN': broken"), "When reading key 'SLOW_DOWN': broken"),
        (OSError(28, "[Errno 28] Error writing bytes"), "no space left on device; make room, and"),
        (PermissionError(13, "Cannot open"), "permission denied; check the path, its permissions"),
        (FileNotFoundError(2, "Cannot open"), "no such file or folder"),
        (pa.ArrowInvalid("no magic bytes"), "damaged (no magic bytes); delete it"),
    ],
)
def test_causes_are_told_in_plain_words(error, reason):
    with pytest.raises(DataError) as caught, storage_errors("s3://b/x"):
        raise error
    assert str(caught.value).startswith("s3://b/x: ") and reason in str(caught.value)
    assert reason in reason_of(error)
