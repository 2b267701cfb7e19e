"""The cluster of all modules that ask for `shared_cluster`. tests.groups runs them in one process, and no
other module beside them there: Ray cannot be started a second time in a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assessing import assessed_run
from local_ray import local_ray

from cotray.config import RayConfig
from cotray.pools.ray_cluster import cluster


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[str]:
    """Its address."""
    with local_ray(num_cpus=4) as address, cluster(RayConfig()):
        yield address


@pytest.fixture(scope="session")
def assessed(shared_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with assessments, which tests leave as it is."""
    return assessed_run(tmp_path_factory.mktemp("assess") / "run")
