"""cluster/: the image, `ray up` and what a job uploads, checked without a cloud and without Docker."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
VERSION = importlib.metadata.version("cotray")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
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
    bases = {name: stage[0]["value"].split()[0] for name, stage in stages.items()}
    assert bases == {name: f"rayproject/ray:{PINS['ray']}-py311-{name}" for name in ("cpu", "gpu")}
    # Ray refuses nodes and clients whose Python has another minor version.
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_every_installation_into_the_image_is_pinned(stages) -> None:
    for stage in stages.values():
        runs = [c for i in stage if i["instruction"] == "RUN" for c in i["value"].split("&&")]
        commands = [command for command in runs if "pip" in command]
        assert commands
        for command in commands:
            assert "--constraint constraints.txt" in command or re.search(r"--no-deps \S+==[\d.]+", command)


def test_every_node_has_what_the_measures_need_and_its_pins(stages) -> None:
    installs = [[i["value"] for i in stage if i["instruction"] == "RUN"] for stage in stages.values()]
    installs += [yaml.safe_load(path.read_text())["setup_commands"] for path in CLOUDS]
    for commands in installs:
        (extras,) = re.findall(r"'\.\[(.+?)\]'", " ".join(commands))
        assert "qags" in extras.split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["optional-dependencies"]["qags"]):
        assert PINS[requirement.name] in requirement.specifier


def test_the_image_gets_the_code_and_nothing_else_and_does_not_run_as_root(stages) -> None:
    kept = [
        line[1:]
        for line in (ROOT / "cluster/Dockerfile.dockerignore").read_text().splitlines()
        if line[0] == "!"
    ]
    for stage in stages.values():
        sources = [s for i in stage if i["instruction"] == "COPY" for s in i["value"].split()[1:-1]]
        assert {source.split("/")[0] for source in sources} == set(kept)
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
    assert "--constraint constraints.txt" in setup and "nightly" not in setup
    assert "--python 3.11" in setup


def test_a_training_gang_of_the_gpu_configuration_fits_one_trainer_node(cloud) -> None:
    from cotray.config import load_config

    training = load_config(ROOT / "jobs/configs/gpu-vllm.yaml").student.training
    trainer = cloud["available_node_types"]["trainer"]["resources"]
    assert training.num_workers * training.num_gpus <= trainer["GPU"]
    assert training.num_workers * training.num_cpus <= trainer["CPU"]


def test_what_a_job_uploads_leaves_out_everything_but_code() -> None:
    environment = yaml.safe_load((ROOT / "cluster/runtime_env.yaml").read_text())
    assert environment["working_dir"] == "."
    top = {path.name for path in ROOT.iterdir()} - {".git", ".venv"}
    ignored = (ROOT / ".gitignore").read_text().split()
    patterns = [*environment["excludes"], *ignored]
    left = {name for name in top if not any(fnmatch.fnmatch(name, p.strip("/")) for p in patterns)}
    assert {"cluster", "cotray", "jobs"} <= {name for name in left if (ROOT / name).is_dir()}
    assert {"tests", "k8s", "runs"}.isdisjoint(left)
