"""What the sections of the configuration are made of."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from cotray.config.references import Path, Reference

Dtype = Literal["auto", "float32", "bfloat16"]


def _absolute_folder(name: str) -> str:
    """A model's local folder, absolute because Ray's workers run in directories of their own."""
    path = pathlib.Path(name).expanduser()
    is_folder = name.startswith((".", "~")) or (path / "config.json").is_file()
    return str(path.absolute()) if is_folder else name


ModelName = Annotated[str, AfterValidator(_absolute_folder)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Config(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class FileConfig(Config):
    """What a whole file says; it knows which values came from the environment."""

    _references: tuple[tuple[Path, Reference, Any], ...] = PrivateAttr(default=())
    """Where, as what it was written, and what became of it."""

    def remember(self, found: Mapping[Path, Reference]) -> None:
        """That these places of the tree that this was validated from have a `${NAME}` in them."""
        tree = self.model_dump(mode="json")
        in_order = sorted(found.items(), key=lambda item: [str(part) for part in item[0]])
        known = ((path, reference, _at(tree, path)) for path, reference in in_order)
        self._references = tuple((path, one, value) for path, one, value in known if value is not None)

    def written(self, **options: Any) -> dict[str, Any]:
        """This as JSON-like values, with references where they were written and nothing else came since.

        `options` as of model_dump. What begins with a reference, such as a method's folder below run_dir,
        still does.
        """
        tree = self.model_dump(mode="json", **options)
        for path, reference, value in self._references:
            now = _at(tree, path)
            if now == value:
                _at(tree, path[:-1])[path[-1]] = reference.written
            elif isinstance(now, str) and isinstance(value, str) and value and now.startswith(value):
                _at(tree, path[:-1])[path[-1]] = f"{reference.written}{now.removeprefix(value)}"
        return tree


def _at(tree: Any, path: Path) -> Any:
    """What a tree has there; None where it has nothing."""
    for part in path:
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


class Replicas(Config):
    min: int = Field(default=1, ge=0)
    """How many are kept."""
    max: int = Field(default=1, ge=1)
    """How many there may be."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Pool(Config):
    """An autoscaling pool of replicas on nodes of one kind; each replica holds one model."""

    replicas: Replicas = Replicas()
    """How many, from min (kept while there is work) to max; work starts with the first."""
    num_cpus: float = Field(default=1, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of one replica."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Node labels a replica needs, such as {ray.io/accelerator-type: A100}."""


class PoolConfig(Pool):
    """The replicas of one stage, and what is done when some fail."""

    pools: tuple[Pool, ...] = ()
    """Several pools that share the work, one per zone or accelerator type, in place of the single one
    that `replicas`, `num_cpus`, `num_gpus` and `label_selector` describe."""
    max_attempts: int = Field(default=3, ge=2)
    """How often a row that fails is tried, the first time with its batch, before it is a dead letter."""
    stall_timeout_s: float = Field(default=1800, gt=0)
    """The stage ends with exit code 1 if for so long no row finished and no replica or node came."""

    def resolved_dtype(self, dtype: Dtype) -> Dtype:
        """What `auto` is on these replicas: told by the configuration and not by the node at hand, so that
        a run that goes on elsewhere does not mix rows of two precisions."""
        if dtype != "auto":
            return dtype
        return "bfloat16" if any(pool.num_gpus for pool in self.all_pools) else "float32"

    @property
    def all_pools(self) -> tuple[Pool, ...]:
        return self.pools or (self,)

    @property
    def max_replicas(self) -> int:
        return sum(pool.replicas.max for pool in self.all_pools)

    @model_validator(mode="after")
    def _has_a_replica(self) -> Self:
        if not any(pool.replicas.min for pool in self.all_pools):
            raise ValueError("replicas.min is 0: at least one pool must keep a replica")
        return self
