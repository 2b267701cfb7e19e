"""Who is at work on a verb in a run folder: one process at a time, on a local disk and on S3.

A lease is a small file with its owner and the time of the owner's last sign of life. Whoever finds it
stale takes it over, and the owner, should it still live, sees that before it seals, uploads or finishes
anything. It is stale if its owner was a process of this machine that is gone, or after TTL_S without a sign;
clocks of machines that share a folder must agree to within half of that.

Changes of the file are atomic: under a file lock on a local disk, by conditional requests on S3. On other
storage they are not; there the owner reads its lease back.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from filelock import FileLock, Timeout

from cotray.errors import DataError, StageError, StageInUse
from cotray.storage.filesystems import (
    S3,
    delete_file,
    filesystem,
    open_file,
    reason_of,
    s3_client,
    storage_errors,
    write_file,
)

BEAT_S = 10.0
TTL_S = 60.0
LOCK_S = 30.0
"""How long a change of the file may be kept waiting by another, in seconds."""


@dataclass(frozen=True)
class Owner:
    """A process at work; `began` and `seen` are Unix time."""

    id: str
    verb: str
    user: str
    host: str
    machine: str
    """Processes are known to each other by their numbers only where this is the same."""
    process: int
    process_start: str
    began: float
    seen: float

    @property
    def is_stale(self) -> bool:
        if self.machine == _machine():
            return _start_of(self.process) != self.process_start
        return time.time() - self.seen > TTL_S

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.began))
        ago = max(0, time.time() - self.seen)
        return (
            f"process {self.process} of {self.user} on {self.host}, at work since {since}, "
            f"last seen {ago:.0f} s ago"
        )


@dataclass(frozen=True)
class Fence:
    """What workers of the owner check before they put anything in its place; empty = nothing to check."""

    root: str = ""
    verb: str = ""
    id: str = ""

    def check(self) -> None:
        """Raises StageError where the lease was taken over, or went away."""
        if not self.id:
            return
        owner = _file(self.root, self.verb).read()
        if owner is None or owner.id != self.id:
            by = f" by {owner}" if owner else ""
            raise StageError(
                f"{self.root}: {self.verb} was taken over{by} while this process gave no sign of life for "
                f"more than {TTL_S:.0f} s. Nothing of it was changed since; let the other one finish"
            )


NO_FENCE = Fence()


@contextlib.contextmanager
def lease(root: str, verb: str) -> Iterator[Fence]:
    """This process alone is at work on `verb` in the run folder `root` inside.

    Raises StageInUse, naming who is, where another process is.
    """
    # Workers that check the fence have working directories of their own.
    root = root if "://" in root else str(Path(root).expanduser().absolute())
    file = _file(root, verb)
    now = time.time()
    own = Owner(
        id=uuid.uuid4().hex,
        verb=verb,
        user=_user(),
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        process_start=_start_of(os.getpid()),
        began=now,
        seen=now,
    )
    other = file.take(own)
    if other is not None:
        raise StageInUse(
            f"{root}: `{verb}` is being done by {other}. Wait for it with --wait, end it (a job that was "
            "submitted goes on without its terminal: `ray job stop`), or name another folder (run_dir)"
        )
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(BEAT_S):
            # Busy storage costs a beat; what follows from too many of them is found by `Fence.check`.
            with contextlib.suppress(DataError, OSError):
                if not file.renew(replace(own, seen=time.time())):
                    return

    thread = threading.Thread(target=beat, name="cotray-lease", daemon=True)
    thread.start()
    try:
        yield Fence(root, verb, own.id)
    finally:
        is_over.set()
        thread.join()
        with contextlib.suppress(DataError):  # it is stale as soon as this process has ended
            file.give_back(own.id)


class _LeaseFile:
    """A lease on storage without atomic changes."""

    def __init__(self, fs: pafs.FileSystem, path: str, uri: str) -> None:
        self.fs, self.path, self.uri = fs, path, uri

    def take(self, own: Owner) -> Owner | None:
        """None if `own` is the owner now, else who is."""
        other = self.read()
        if other is not None and not other.is_stale:
            return other
        self._write(own)
        found = self.read()
        return None if found is None or found.id == own.id else found

    def renew(self, own: Owner) -> bool:
        """Whether `own` still was the owner, and its sign of life is written."""
        found = self.read()
        if found is None or found.id != own.id:
            return False
        self._write(own)
        return True

    def give_back(self, id: str) -> None:
        found = self.read()
        if found is not None and found.id == id:
            with storage_errors(self.uri):
                delete_file(self.fs, self.path)

    def read(self) -> Owner | None:
        with storage_errors(self.uri):
            try:
                with open_file(self.fs, self.path) as file:
                    return _parsed(file.read())
            except FileNotFoundError:
                return None

    def _write(self, own: Owner) -> None:
        with storage_errors(self.uri):
            write_file(self.fs, self.path, json.dumps(asdict(own)).encode())


class _LocalLeaseFile(_LeaseFile):
    """The same under a lock of the file system, which ends with its process."""

    def take(self, own: Owner) -> Owner | None:
        with self._locked():
            return super().take(own)

    def renew(self, own: Owner) -> bool:
        with self._locked():
            return super().renew(own)

    def give_back(self, id: str) -> None:
        with self._locked():
            super().give_back(id)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = os.path.dirname(self.path)
        lock = FileLock(os.path.join(folder, "lock"), timeout=LOCK_S)
        with storage_errors(self.uri):
            os.makedirs(folder, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                raise DataError(
                    f"{self.uri}: another process has held {lock.lock_file} for {LOCK_S:.0f} s, and needs it "
                    "for a moment: it is stopped (Ctrl-Z?), or its disk hangs. "
                    f"`fuser {lock.lock_file}` names it; continue it (`kill -CONT`) or end it, then repeat"
                ) from None
        try:
            yield
        finally:
            lock.release()


class _S3LeaseFile(_LeaseFile):
    """The same by conditional requests: the object is written only if it is still the one that was read."""

    def take(self, own: Owner) -> Owner | None:
        other, tag = self._tagged()
        if other is not None and not other.is_stale:
            return other
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        return None if self._put(own, condition) else self.read()

    def renew(self, own: Owner) -> bool:
        found, tag = self._tagged()
        return found is not None and found.id == own.id and self._put(own, {"IfMatch": tag})

    def read(self) -> Owner | None:
        return self._tagged()[0]

    def _tagged(self) -> tuple[Owner | None, str]:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path.partition("/")
        try:
            response = s3_client().get_object(Bucket=bucket, Key=key)
            return _parsed(response["Body"].read()), response["ETag"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None, ""
            raise DataError(f"{self.uri}: {reason_of(error)}") from None
        except BotoCoreError as error:
            raise DataError(f"{self.uri}: {reason_of(error)}") from None

    def _put(self, own: Owner, condition: dict[str, Any]) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path.partition("/")
        try:
            body = json.dumps(asdict(own)).encode()
            s3_client().put_object(Bucket=bucket, Key=key, Body=body, **condition)
            return True
        except ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") in (404, 409, 412):
                found = self.read()  # an earlier try of the same request may have arrived
                return found is not None and (found.id, found.seen) == (own.id, own.seen)
            raise DataError(f"{self.uri}: {reason_of(error)}") from None
        except BotoCoreError as error:
            raise DataError(f"{self.uri}: {reason_of(error)}") from None


def _file(root: str, verb: str) -> _LeaseFile:
    fs, base = filesystem(root.rstrip("/"))
    kind = {pafs.LocalFileSystem: _LocalLeaseFile, S3: _S3LeaseFile}.get(type(fs), _LeaseFile)
    return kind(fs, f"{base}/.leases/{verb}.json", f"{root}/.leases/{verb}.json")


def _parsed(data: bytes) -> Owner | None:
    """None where it is damaged: nobody can be told to be at work."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        tree = json.loads(data)
        return Owner(**{field.name: tree[field.name] for field in fields(Owner)})
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        return str(os.getuid())


def _machine() -> str:
    """This host, since it was started, and the space that its process numbers are of."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_of(process: int) -> str:
    """When a process began, which tells it from a later one of the same number; "" where there is none."""
    import psutil

    try:
        found = psutil.Process(process)
        return "" if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time():.2f}"
    except psutil.Error:
        return ""
