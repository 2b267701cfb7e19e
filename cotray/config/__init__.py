"""The configuration of cotray: one module per section, `run` for the whole, `file` for reading it."""

from cotray.config.base import Dtype, PoolConfig
from cotray.config.data import DataConfig
from cotray.config.endpoint import EndpointConfig
from cotray.config.run import (
    Method,
    RayConfig,
    RunConfig,
    StorageConfig,
    dump_config,
    load_config,
    parse_config,
)
from cotray.config.scoring import ScoringConfig
from cotray.config.serving import ServingConfig
from cotray.config.teacher import DecodingConfig, TeacherConfig
from cotray.config.training import ModelConfig, SimulatorConfig, StudentConfig, TrainingConfig

__all__ = [
    "DataConfig",
    "DecodingConfig",
    "Dtype",
    "EndpointConfig",
    "Method",
    "ModelConfig",
    "PoolConfig",
    "RayConfig",
    "RunConfig",
    "ScoringConfig",
    "ServingConfig",
    "SimulatorConfig",
    "StorageConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
