"""Where files are: a local disk, s3:// or any other of pyarrow's filesystems, and what it says when it fails.

S3 is addressed by AWS's own variables and configuration files, as boto3 does it; `storage` in the
configuration sets the variables.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from cotray.config import StorageConfig
from cotray.errors import DataError, StorageBusy
from cotray.storage.s3 import MAX_WHOLE_BYTES, NUM_RETRIES, S3, WAIT_S, s3_address, s3_client

__all__ = ["S3", "s3_client"]

T = TypeVar("T")
NUM_FETCHES = 8
"""Files of a folder that are fetched at once."""

_UNREACHED = "no connection to the storage; check storage.endpoint_url (AWS_ENDPOINT_URL) and the network"
_OVERLOADED = "the storage is overloaded or failing; the same command goes on from here later"
_PASSING = (_UNREACHED, _OVERLOADED)
# What the texts of pyarrow (SLOW_DOWN) and boto3 (SlowDown) contain, and what that means.
_CAUSES = (
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|ExpiredToken|InvalidToken|status 40[13]",
        "access denied; check the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID) and what they may do there",
    ),
    ("NO_SUCH_BUCKET", "no such bucket; create it or correct the path"),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|status 301",
        "the bucket is in another region; set storage.region",
    ),
    ("NETWORK_CONNECTION|Could not connect to the endpoint", _UNREACHED),
    (
        r"SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|status 50\d",
        _OVERLOADED,
    ),
)


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a path or URI, and the path inside it; no request is made yet."""
    if path.startswith("s3://"):
        # Not from_uri, which asks AWS for the region of the bucket.
        return S3(*s3_address()), path.removeprefix("s3://")
    if "://" in path:
        try:
            return pafs.FileSystem.from_uri(path)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be opened ({reason_of(error)}); check the URI and credentials"
            ) from None
    return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())


def s3_etags(uri: str) -> list[tuple[str, str]]:
    """The files below an s3:// folder, by name, and what S3 calls their contents (their ETag).

    Equal tags are equal contents. Uploaded in other parts, the same content has another tag.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, folder = uri.removeprefix("s3://").strip("/").partition("/")
    prefix = f"{folder}/" if folder else ""
    try:
        pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [object for page in pages for object in page.get("Contents", ())]
    except (BotoCoreError, ClientError) as error:
        raise DataError(f"{uri}: {reason_of(error)}") from None
    return sorted((object["Key"].removeprefix(prefix), object["ETag"]) for object in found)


def write_file(fs: pafs.FileSystem, path: str, data: bytes) -> None:
    """All of it or nothing: by rename on a local disk, by one completed upload elsewhere.

    When this returns, the file outlives a loss of power: file and folder have been written through.
    """
    if isinstance(fs, S3):
        fs.write_bytes(path, data)
        return
    if not isinstance(fs, pafs.LocalFileSystem):  # there are no folders, only names with slashes in them
        with fs.open_output_stream(path) as stream:
            stream.write(data)
        return
    with _put_in_place(path) as temporary:
        Path(temporary).write_bytes(data)


def copy_file(source: Path, fs: pafs.FileSystem, path: str) -> None:
    """A local file to any storage, all of it or nothing, and as lasting as `write_file`."""
    if not isinstance(fs, pafs.LocalFileSystem):
        # Threaded uploads to S3 can deadlock: https://github.com/apache/arrow/issues/32372
        pafs.copy_files(str(source), path, destination_filesystem=fs, use_threads=False)
        return
    with _put_in_place(path) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _put_in_place(path: str) -> Iterator[str]:
    """The name to write a local file under; after the block it has been written through, under `path`."""
    folder, _, leaf = path.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{leaf}.{uuid.uuid4().hex}"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:  # such as a full disk, which the half-written file would keep full
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def delete_file(fs: pafs.FileSystem, path: str) -> None:
    """Delete a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        fs.delete_file(path)
    if isinstance(fs, pafs.LocalFileSystem):
        with contextlib.suppress(FileNotFoundError):
            _sync_folder(path.rpartition("/")[0])


def delete_folder(fs: pafs.FileSystem, path: str) -> None:
    """Delete a folder with all that is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        fs.delete_dir(path)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_file(fs: pafs.FileSystem, path: str) -> pa.NativeFile:
    """A file to read. From S3, one of up to 64 MiB is read in one request."""
    if isinstance(fs, S3) and (data := fs.read_bytes(path)) is not None:
        return pa.BufferReader(data)
    return fs.open_input_file(path)


def fetch_folder(fs: pafs.FileSystem, path: str, target: Path) -> None:
    """All files below a folder to the local disk; pyarrow's own copies end where S3 throttles."""
    infos = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    names = [info.path.removeprefix(f"{path}/") for info in infos if info.is_file]
    with ThreadPoolExecutor(NUM_FETCHES) as threads:
        list(threads.map(lambda name: _fetch_file(fs, f"{path}/{name}", target / name), names))


def _fetch_file(fs: pafs.FileSystem, path: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with fs.open_input_file(path) as file, target.open("wb") as copy:
        size = file.size()
        for start in range(0, size, MAX_WHOLE_BYTES):
            copy.write(_read_at(file, min(MAX_WHOLE_BYTES, size - start), start))


def _read_at(file: pa.NativeFile, size: int, start: int) -> bytes:
    """pyarrow (26) retries a throttled read only where the server's answer, some XML, fits into the range.

    It reads right into a buffer of the range's size, and fails if that is too small.
    """
    for attempt in range(NUM_RETRIES):
        try:
            return file.read_at(size, start)
        except OSError as error:
            if "Failed to flush response stream" not in str(error):
                raise
            time.sleep(WAIT_S * 2**attempt)
    return file.read_at(size, start)


def environment(config: StorageConfig) -> dict[str, str]:
    """The variables by which pyarrow, boto3 and what is built on them agree on the storage."""
    variables = {
        "AWS_ENDPOINT_URL": config.endpoint_url,
        "AWS_ENDPOINT_URL_S3": config.endpoint_url,
        "AWS_REGION": config.region,
        "AWS_DEFAULT_REGION": config.region,
    }
    return {name: value for name, value in variables.items() if value}


@contextlib.contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """What pyarrow raises inside becomes a one-line DataError about `uri`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise (StorageBusy if reason in _PASSING else DataError)(f"{uri}: {reason}") from None


def with_retries(work: Callable[[], T], waits_s: Sequence[float] = (1, 2, 4, 8, 15, 30, 60)) -> T:
    """Call `work` again after each wait while the storage is busy: work of hours can wait for minutes."""
    for wait_s in waits_s:
        with contextlib.suppress(StorageBusy):
            return work()
        time.sleep(wait_s)
    return work()


def reason_of(error: Exception) -> str:
    """The cause in plain words and the way out, where both are known; else the error's text in one line."""
    text = " ".join(str(error).split())
    _, is_aws, aws = text.partition("AWS Error ")
    if not is_aws and type(error).__module__.startswith("botocore"):
        is_aws, aws = text, text
    if is_aws:
        plain = aws.replace("_", "")
        known = (reason for pattern, reason in _CAUSES if re.search(pattern.replace("_", ""), plain, re.I))
        return next(known, f"AWS says {aws[:200]}")
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{os.strerror(error.errno).lower()}; make room, and the same command goes on from here"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno).lower()}; check the path, its permissions and the disk"
    if isinstance(error, pa.ArrowInvalid):
        return f"damaged ({text[:200]}); delete it and make it again"
    return text[:200]
