"""More replicas are asked for before those that there are take no more requests."""

from __future__ import annotations

import pytest

from cotray.config.serving import DeploymentConfig
from cotray.deployments.application import _models


class Model:
    pass


def test_replicas_are_added_at_seven_tenths_of_what_one_takes() -> None:
    config = DeploymentConfig.model_validate({"max_batch_size": 8, "replicas": {"min": 1, "max": 4}})
    deployment = _models(Model, "student", config, 64)
    scaling = deployment._deployment_config.autoscaling_config
    assert scaling is not None
    assert deployment.max_ongoing_requests == 16
    assert scaling.get_target_ongoing_requests() == pytest.approx(11.2)
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
