"""python -m cluster.submit [--address URL] [--id ID] -- COMMAND ...: run a command on a Ray cluster.

    python -m cluster.submit -- python -m jobs.run -c jobs/configs/smoke.yaml run_dir=s3://bucket/run

Uploads the code (cluster/runtime_env.yaml), waits, follows the job's output through lost connections, and
ends with the command's own exit code, which `ray job submit` turns into 1. Ctrl-C leaves the job running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError, CotrayError, StageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).parent.parent
RETRY_S = 2
"""Between two tries to reach the cluster again."""
GIVE_UP_S = 300
"""How long it may be out of reach."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.submit",
        description="Run a command on a Ray cluster, follow its output, and end with its exit code.",
    )
    parser.add_argument(
        "--address",
        help="of the dashboard, such as http://HEAD:8265; default: RAY_API_SERVER_ADDRESS, "
        "else http://127.0.0.1:8265",
    )
    parser.add_argument("--id", help="of the job; one that exists is followed, not started again")
    parser.add_argument("command", nargs="+", help="after --, such as python -m jobs.run -c CONFIG a.b=c")
    arguments = parser.parse_args(argv)
    try:
        client = connect(arguments.address)
        job = submit(client, arguments.command, job=arguments.id)
    except CotrayError as error:
        print(f"cotray: {error}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(follow(client, job))
    except KeyboardInterrupt:
        print(
            f"cotray: {job} goes on; follow it with --id {job}, stop it with `ray job stop {job}`",
            file=sys.stderr,
        )
        return 130
    except StageError as error:
        print(f"cotray: {error}", file=sys.stderr)
        return 1


def connect(address: str | None) -> JobSubmissionClient:
    """A client that has reached the cluster. Raises ConfigError naming the address and the way out."""
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or Path("~/.ray/auth_token").expanduser().exists():
        # Without it Ray's client leaves the token where it is.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    # Ray's client prefers the variable to its argument.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    # It tells each file that it leaves out.
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        problem = "does not know this token" if has_token else "wants a token"
        raise ConfigError(
            f"the cluster at {address} {problem}: put its own into RAY_AUTH_TOKEN or ~/.ray/auth_token "
            "(on Kubernetes: kubectl get secret CLUSTER -o jsonpath='{.data.auth_token}' | base64 -d)"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster at {address} ({_line(error)}); start one, or name another with --address"
        ) from None


def submit(client: JobSubmissionClient, command: Sequence[str], *, job: str | None = None) -> str:
    """Start the command, from the repository's root, and return the job's id."""
    import yaml

    if job and any(details.submission_id == job for details in client.list_jobs()):
        return job
    environment: dict[str, Any] = yaml.safe_load((ROOT / "cluster/runtime_env.yaml").read_text())
    environment["working_dir"] = str(ROOT / environment["working_dir"])
    environment["excludes"] += [line for name in named_files(command) for line in lines_for(name)]
    try:
        return client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=job,
            runtime_env=environment,
            metadata={"app": "cotray"},
        )
    except RuntimeError as error:
        raise ConfigError(f"the cluster refused the job: {_line(error)}") from None


def named_files(command: Sequence[str]) -> list[str]:
    """Files of the repository's folder that a command names, alone or behind a `=`, relative to it."""
    found = []
    for word in command:
        for name in (word, word.partition("=")[2]):
            path = (ROOT / name).resolve()
            if name and path.is_file() and path.is_relative_to(ROOT):
                found.append(str(path.relative_to(ROOT)))
    return found


def lines_for(name: str) -> list[str]:
    """Lines that let in one file and of the folders above it nothing else."""
    *above, _ = name.split("/")
    lines = []
    for depth in range(1, len(above) + 1):
        folder = "/".join(above[:depth])
        # What the lines before let in of a folder of the code, they still do.
        lines += [] if above[0] in ("cluster", "cotray", "jobs") else [f"!/{folder}", f"/{folder}/**"]
    escaped = re.sub(r"([*?!#\[\]\\ ])", r"\\\1", name)
    return [*lines, f"!/{escaped}"]


async def follow(client: JobSubmissionClient, job: str) -> int:
    """Print the job's output until it has ended, and return its exit code.

    Raises StageError when the cluster stays out of reach.
    """
    from ray.exceptions import RayError

    shown, silent_for = 0, 0.0
    while True:
        try:
            with contextlib.suppress(OSError, RuntimeError):
                # From the beginning each time it connects.
                seen = 0
                async for text in client.tail_job_logs(job):
                    sys.stdout.write(text[max(0, shown - seen) :])
                    sys.stdout.flush()
                    seen += len(text)
                    shown, silent_for = max(shown, seen), 0.0
            info = await asyncio.to_thread(client.get_job_info, job)
        except (OSError, RuntimeError, RayError) as error:
            if silent_for >= GIVE_UP_S:
                raise StageError(
                    f"{job}: the cluster has been out of reach for {GIVE_UP_S} s ({_line(error)}); "
                    f"if it comes back: --id {job}"
                ) from error
        else:
            if info.status.is_terminal():
                if info.status != "SUCCEEDED" and info.driver_exit_code in (None, 0):
                    print(f"cotray: {job} {info.status}: {info.message}", file=sys.stderr)
                return info.driver_exit_code or (0 if info.status == "SUCCEEDED" else 1)
        await asyncio.sleep(RETRY_S)
        silent_for += RETRY_S


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


if __name__ == "__main__":
    raise SystemExit(main())
