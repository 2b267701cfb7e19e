"""Shell blocks of documentation, command by command: does every one name what there is?

Nothing is run but argument parsers, configuration loaders and, for curl, cotray's own application over a
backend made by hand. A command that nothing here knows is a ValueError.
"""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import yaml
from pages import ROOT
from parsed_arguments import arguments_of
from shell_lines import Command, commands
from starlette.testclient import TestClient
from visits import Scripted

from cotray.config import ServingConfig, load_config
from cotray.config.pairs import load_pairs
from cotray.config.sweep import load_sweep
from cotray.serving.app import create_app

ELSEWHERE = {
    "/etc/cotray/cotray.yaml": "k8s/overlays/gpu/cotray.yaml",
    "CONFIG": "jobs/configs/demo.yaml",
    "SWEEP": "jobs/sweeps/ablations.yaml",
}
"""Where a pod has its configuration, and what a page calls a file of the reader's own."""
SERVED = ("student", "faithful", "greedy")
"""Names of versions that pages ask: where none are configured, and those of docs/how-to/serving.md."""
DEPLOYED = {"COTRAY_RUN_DIR": "s3://bucket/run", "COTRAY_DATA": "s3://bucket/questions.jsonl", "PWD": "/work"}
WITHOUT_PARSER = {"cotray.config.reference"}
PLAIN = {
    *("base64", "cat", "cd", "cp", "echo", "eval", "export", "for", "git", "grep", "head", "kill", "ls"),
    *("mkdir", "openssl", "printf", "rm", "sed", "sleep", "tail", "wait"),
}
KUBECTL = {"apply", "create", "delete", "describe", "get", "logs", "port-forward", "rollout", "wait"}


@dataclass
class Reader:
    """Somebody who pastes a page's blocks in a folder with the repository's files and the page's own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(DEPLOYED))

    def path(self, text: str) -> Path:
        """A file that has to be there."""
        path = self.folder / ELSEWHERE.get(text, text)
        if not path.exists():
            raise ValueError(f"{text}: no such file")
        return path

    def paste(self, text: str) -> None:
        """All commands of one block."""
        for command in commands(text, self.environment):
            if not command.words:
                self.environment |= command.environment
                continue
            name = Path(command.words[0]).name
            handler = HANDLERS.get("python" if name == "python3" else name)
            if handler:
                handler(self, command)
            elif name not in PLAIN:
                raise ValueError(f"nothing checks the command {name!r}")
            if name == "export":
                self.environment |= dict(word.split("=", 1) for word in command.words[1:] if "=" in word)
            if command.stdin and command.target:
                (self.folder / command.target).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / command.target).write_text(command.stdin)


def _python(reader: Reader, command: Command) -> None:
    words = command.words[1:]
    if words[:1] == ["-m"]:
        _module(reader, words[1], words[2:], command.environment)
    elif words[:1] == ["-c"]:
        compile(words[1], "python -c", "exec")
    elif words and words[0].endswith(".py"):
        reader.path(words[0])
    else:
        raise ValueError(f"neither a module nor a script: {words}")


def _console_script(reader: Reader, command: Command) -> None:
    if command.words[1:] == ["--version"]:
        return
    arguments_of("cotray.cli", command.words[1:], {})
    _module(reader, f"jobs.{command.words[1]}", command.words[2:], command.environment)


def _module(reader: Reader, module: str, argv: list[str], environment: dict[str, str]) -> None:
    if module in WITHOUT_PARSER:
        return
    if module in ("pip", "venv"):
        return _pip(reader, Command([module, *argv])) if module == "pip" else None
    if module == "pytest":
        return _pytest(reader, Command([module, *argv]))
    arguments = arguments_of(module, argv, reader.environment | environment)
    if module == "cluster.submit":
        return HANDLERS[arguments.command[0]](reader, Command(arguments.command))
    if config := getattr(arguments, "config", None):
        given = [*getattr(arguments, "overrides", []), *getattr(arguments, "files", [])]
        overrides = [text for text in given if re.match(r"[A-Za-z_.]+=", text)]
        with patch.dict("os.environ", reader.environment | environment):
            LOADERS.get(module, load_config)(reader.path(config), overrides)
    return None


LOADERS: dict[str, Callable[..., Any]] = {"jobs.sweep": load_sweep, "jobs.train_pairs": load_pairs}


def _pip(reader: Reader, command: Command) -> None:
    """Extras of cotray are those of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in command.words:
        found = re.fullmatch(r"(?:cotray|\.)\[([\w,-]+)\]", word)
        if found and (unknown := set(found[1].split(",")) - extras.keys()):
            raise ValueError(f"{word}: no extra {unknown}")


def _pytest(reader: Reader, command: Command) -> None:
    for word in command.words:
        if word.startswith("tests/"):
            reader.path(word)


def _make(reader: Reader, command: Command) -> None:
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    for word in command.words[1:]:
        if "=" not in word and word not in targets:
            raise ValueError(f"make has no target {word}")


def _kubectl(reader: Reader, command: Command) -> None:
    words = [word for word in command.words[1:] if not word.startswith("-")]
    if not KUBECTL & set(words):
        raise ValueError(f"kubectl with another verb than {sorted(KUBECTL)}")
    options = dict(zip(command.words, command.words[1:], strict=False))
    for option in ("-k", "-f"):
        if option in options:
            reader.path(options[option])
    if options.get("-n", "cotray") not in ("cotray", "kuberay-system"):
        raise ValueError(f"no namespace {options['-n']} in the manifests")
    if "-k" in options and "-l" in options:
        _selects(options["-k"], options["-l"])


def _selects(overlay: str, selector: str) -> None:
    """A selector's values are labels that the manifests give."""
    manifests = "".join(path.read_text() for path in sorted((ROOT / "k8s").rglob("*.yaml")))
    found = re.fullmatch(r"([\w./-]+)(?:=| (?:not)?in )(.+)", selector)
    if not found:
        raise ValueError(f"{overlay}: the selector {selector!r} is not understood")
    values = re.findall(r"[\w-]+", found[2])
    for value in values:
        if f"{found[1]}: {value}" not in manifests:
            raise ValueError(f"no object has the label {found[1]}: {value}")


def _helm(reader: Reader, command: Command) -> None:
    for option, value in zip(command.words, command.words[1:], strict=False):
        if option == "--values":
            reader.path(value)


def _ray(reader: Reader, command: Command) -> None:
    verb = command.words[1]
    if verb in ("up", "down", "dashboard", "attach", "monitor"):
        yaml.safe_load(reader.path(command.words[2]).read_text())
    elif verb == "job" and command.words[2] == "submit":
        inner = command.words[command.words.index("--") + 1 :]
        HANDLERS[inner[0]](reader, Command(inner))
    elif verb not in ("job", "get-auth-token", "status"):
        raise ValueError(f"nothing checks ray {verb}")


def _docker(reader: Reader, command: Command) -> None:
    options = dict(zip(command.words, command.words[1:], strict=False))
    if "-f" in options:
        text = reader.path(options["-f"]).read_text()
        if f"AS {options.get('--target', 'cpu')}\n" not in text:
            raise ValueError(f"no stage {options['--target']}")


def _serve(reader: Reader, command: Command) -> None:
    """`serve run MODULE:FUNCTION key=value`: Ray Serve imports it, and it takes the arguments."""
    module, _, name = command.words[2].partition(":")
    if not callable(getattr(importlib.import_module(module), name, None)):
        raise ValueError(f"{command.words[2]}: no such function")


def _curl(reader: Reader, command: Command) -> None:
    """The request as the application answers it; other hosts than cotray's endpoint are not asked."""
    urls = [word for word in command.words if word.startswith("http")]
    if not urls or urlsplit(urls[0]).hostname not in ("127.0.0.1", "localhost"):
        raise ValueError(f"nothing checks curl of {urls}")
    pairs = list(zip(command.words, command.words[1:], strict=False))
    headers = dict(value.split(": ", 1) for option, value in pairs if option in ("-H", "--header"))
    body = next((value for option, value in pairs if option in ("-d", "--data", "--json")), None)
    method = next((value for option, value in pairs if option == "-X"), "GET" if body is None else "POST")
    if body is not None:
        body = command.stdin if body in ("@-", "@/dev/stdin") else body
        body = reader.path(body[1:]).read_text() if body.startswith("@") else body
        json.loads(body)
    keys = [key] if (key := reader.environment.get("COTRAY_API_KEYS")) else []
    with TestClient(create_app(Scripted(SERVED), ServingConfig(), keys), client=("127.0.0.1", 1)) as client:
        url = urlsplit(urls[0])
        base = {"host": "127.0.0.1"}
        answer = client.request(method, url.path or "/", content=body, headers=base | headers)
    if answer.status_code != 200:
        raise ValueError(f"{method} {url.path}: {answer.status_code} {answer.text}")


def _ignored(reader: Reader, command: Command) -> None:
    """Other people's programs, of which nothing here is told but that they are installed."""


HANDLERS: dict[str, Callable[[Reader, Command], None]] = {
    "python": _python,
    "cotray": _console_script,
    "pip": _pip,
    "pytest": _pytest,
    "make": _make,
    "kubectl": _kubectl,
    "helm": _helm,
    "ray": _ray,
    "docker": _docker,
    "kind": _ignored,
    "serve": _serve,
    "curl": _curl,
    "apt-get": _ignored,
    "aws": _ignored,
    "lm_eval": _ignored,
    "vllm": _ignored,
    "ruff": _ignored,
    "pyright": _ignored,
}
