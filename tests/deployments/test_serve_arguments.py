"""What `serve run` and a RayService's `args` give to the application builder."""

from __future__ import annotations

import pytest

from cotray.errors import ConfigError, DataError


@pytest.fixture
def build():
    from cotray.deployments.application import build_app

    return build_app


def test_the_file_named_config_is_read_with_its_environment_variables(build, tmp_path, monkeypatch):
    monkeypatch.setenv("COTRAY_RUN_DIR", str(tmp_path / "nothing-here"))
    (tmp_path / "c.yaml").write_text("run_dir: ${COTRAY_RUN_DIR}\n")
    with pytest.raises(DataError, match="nothing-here: no finished student"):
        build({"config": str(tmp_path / "c.yaml")})


def test_other_keys_override_the_file_as_text_or_as_yaml(build, tmp_path):
    (tmp_path / "c.yaml").write_text("run_dir: from-file\nserving: {port: 9000}\n")
    with pytest.raises(DataError, match="from-argument"):
        build({"config": str(tmp_path / "c.yaml"), "run_dir": "from-argument", "serving.port": "9001"})
    with pytest.raises(ConfigError, match=r"serving\.student\.replicas: max \(1\) is below min \(2\)"):
        build({"config": str(tmp_path / "c.yaml"), "serving.student": {"replicas": {"min": 2, "max": 1}}})


def test_without_a_file_the_arguments_are_the_configuration(build):
    with pytest.raises(DataError, match="alone: no finished student"):
        build({"run_dir": "alone", "serving": {"port": 9000}})
