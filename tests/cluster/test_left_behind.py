"""However a verb ends, nothing of it stays: no process, no port, no shared memory, no temporary file."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml
from leftovers import ROOT, WAIT_S, started, wait_until

from cotray.cli import job

pytestmark = pytest.mark.ray

SMOKE = ROOT / "jobs/configs/smoke.yaml"
SLOW = ["teacher.engine=fake", "teacher.batch_size=1", "teacher.engine_args.seconds_per_batch=1"]
MANY_STEPS = ["training.epochs=5000", "training.patience=5000", "training.checkpoint_minutes=0.001"]


def generating(folder: Path) -> tuple[list[str], str]:
    """A command that is long at it, and the files that show that it is."""
    return ["jobs.run", "-c", str(SMOKE), f"run_dir={folder}/run", *SLOW], "run/*/rationales/.batches-*/*/*"


def training(folder: Path, options: Sequence[str] = MANY_STEPS) -> tuple[list[str], str]:
    command = [*pairs_command(folder), *options]
    return command, "out/checkpoints/*/step-*/complete.json"


def pairs_command(folder: Path) -> list[str]:
    rows = [
        {"passage": f"Ice {n} floats.", "question": "What floats?", "answer": f"Ice {n}"} for n in range(20)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.yaml").write_text("model: random:qwen2\ntraining: {num_cpus: 1}\nray: {num_cpus: 2}\n")
    command = ["jobs.train_pairs", "-c", str(folder / "c.yaml"), "--data", str(folder / "pairs.jsonl")]
    return [*command, "--out", str(folder / "out")]


@pytest.mark.parametrize(
    ("how", "work"),
    [
        # Nothing is left to train on.
        pytest.param(None, partial(training, options=("training.max_length=8",)), marks=pytest.mark.long),
        (signal.SIGINT, generating),
        pytest.param(signal.SIGTERM, generating, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, training, marks=pytest.mark.long),
        (signal.SIGKILL, training),
    ],
    ids=["exception", "ctrl-c", "sigterm", "sighup", "sigkill"],
)
def test_a_verb_that_is_long_at_work_leaves_nothing_behind(
    how: signal.Signals | None, work: Callable[[Path], tuple[list[str], str]], tmp_path: Path
) -> None:
    command, shows = work(tmp_path)
    with started(command) as own:
        if how is not None:
            assert wait_until(lambda: any(tmp_path.glob(shows)) or own.process.poll() is not None)
            assert own.process.poll() is None
            assert len(own.marked()) > 5 and own.sockets()
            own.remember()
            own.process.send_signal(how)
        assert own.process.wait(WAIT_S) != 0
        own.assert_nothing_is_left()


STAGES = ("prepare", "generate", "assess", "train", "score", "probe", "report", "run", "serve")
VERBS = (*STAGES, "verify", "sweep", "train_pairs", "export", "annotate", "gate", "plan", "init")
WITHOUT_WORKERS = {"prepare", "report", "verify", "export", "annotate", "gate", "plan", "init"}
"""They have ended before a signal finds them at work."""
CHANGED = {
    "prepare": "data.limit=20",
    "generate": "teacher.decoding.max_new_tokens=12",
    "assess": "assessing.splits=[test]",
    "train": "student.training.learning_rate=2.0e-3",
    "score": "scoring.max_new_tokens=20",
    "probe": "probing.measures=[filler]",
    "run": "methods=[greedy]",
}
"""What gives the verb something to do in a run that is finished."""
A_WORKER = r"ray::(?!DashboardAgent|RuntimeEnvAgent|IDLE)"
"""A title of what works for the verb; Ray's own processes come before."""
ENDS = {
    "done": None,
    "ctrl-c": signal.SIGINT,
    "sigterm": signal.SIGTERM,
    "sighup": signal.SIGHUP,
    "sigkill": signal.SIGKILL,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration `c.yaml` and the run of it."""
    folder = tmp_path_factory.mktemp("finished")
    tree = yaml.safe_load(SMOKE.read_text()) | {
        "run_dir": str(folder / "run"),
        "method": "contrast-wrong",
        "methods": ["contrast-wrong"],
        "assessing": {"measures": ["surface"]},
        "probing": {"measures": ["early_answering", "filler", "mistake"], "num_cpus": 1},
    }
    tree["teacher"] |= {"engine": "fake"}
    (folder / "c.yaml").write_text(yaml.safe_dump(tree))
    assert job("run", ["-c", str(folder / "c.yaml")]) == 0
    return folder


def command_of(verb: str, folder: Path) -> list[str]:
    """The verb, so that it works through all that it does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configured = [f"jobs.{verb}", "-c", str(folder / "c.yaml")]
    if verb != "run":
        configured += [f"run_dir={folder}/run/contrast-wrong"]
    match verb:
        case "serve":
            return [*configured, "serving.api_keys=open", f"serving.port={port}"]
        case "sweep":
            tree = {"config": str(folder / "c.yaml"), "run_dir": str(folder / "sweep"), "seeds": [1]}
            tree["cells"] = {"one": {"method": "greedy"}}
            (folder / "sweep.yaml").write_text(yaml.safe_dump(tree))
            return ["jobs.sweep", "-c", str(folder / "sweep.yaml")]
        case "train_pairs":
            return [*pairs_command(folder), "training.epochs=2"]
        case "export":
            return [*configured, "--to", "chat", "--out", str(folder / "exported")]
        case "annotate":
            return ["jobs.annotate", "export", *configured[1:], "--out", str(folder / "forms")]
        case "gate":
            return [*configured, "accuracy>=0"]
        case "plan":
            rates = ["--teacher-tokens-per-s", "100", "--tokens-per-rationale", "20"]
            return [*configured, "teacher.num_gpus=1", "--rows", "1000", *rates]
        case "init":
            questions = ROOT / "cotray/data/sample/questions.jsonl"
            return ["jobs.init", str(questions), "--out", str(folder / "own.yaml")]
        case "report" | "verify":
            return configured
        case _:
            return [*configured, CHANGED[verb], "--overwrite"]


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_leaves_nothing_behind(verb: str, end: str, finished: Path, tmp_path: Path) -> None:
    if (end != "done" and verb in WITHOUT_WORKERS) or (end == "done" and verb == "serve"):
        pytest.skip(
            "a verb without workers has ended before a signal comes, and serve does not end by itself"
        )
    folder = tmp_path / "own"
    shutil.copytree(finished, folder)
    text = (folder / "c.yaml").read_text().replace(str(finished), str(folder))
    (folder / "c.yaml").write_text(text)
    at_work = re.compile("ray::ServeReplica:cotray:ingress" if verb == "serve" else A_WORKER)
    with started(command_of(verb, folder)) as own:
        if how := ENDS[end]:
            assert wait_until(lambda: any(map(at_work.match, own.titles())) or own.process.poll() is not None)
            assert own.process.poll() is None, "it has ended by itself"
            own.remember()
            own.process.send_signal(how)
        status = own.process.wait(WAIT_S)
        # Asked to end, an endpoint has done all that it should.
        is_right = end == "done" or (verb == "serve" and end in ("ctrl-c", "sigterm"))
        assert (status == 0) == is_right, own.text()[-2000:]
        own.assert_nothing_is_left()
