"""Rows of a Hugging Face dataset, `hf:ID` or `hf:ID:CONFIG`, streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotray.config import DataConfig
from cotray.errors import ConfigError, DataError
from cotray.storage.filesystems import reason_of

HUB = "hf:"


def read_hub(config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of `data.dataset_split`, with its number. Raises DataError or ConfigError."""
    with _hub_errors(config):
        import datasets

        name, subset = _names(config)
        revision = commit_of(config) or None
        rows = datasets.load_dataset(
            name, subset, split=config.dataset_split, revision=revision, streaming=True
        )
        for number, row in enumerate(rows, 1):
            yield str(number), dict(row)


def commit_of(config: DataConfig) -> str:
    """The full id of the commit that `data.revision` names; "" for a dataset in a local folder."""
    name, _ = _names(config)
    if Path(name).is_dir():
        return ""
    with _hub_errors(config):
        from huggingface_hub import HfApi

        return HfApi().dataset_info(name, revision=config.revision).sha or ""


def _names(config: DataConfig) -> tuple[str, str | None]:
    name, _, subset = config.path.removeprefix(HUB).partition(":")
    return name, subset or None


@contextlib.contextmanager
def _hub_errors(config: DataConfig) -> Iterator[None]:
    try:
        yield
    except (GeneratorExit, ConfigError, DataError):
        raise
    except ImportError:
        raise ConfigError(
            f"data.path={config.path} needs the datasets library: pip install 'cotray[hub]'"
        ) from None
    # Whatever the network, the hub or the dataset's builder raises: there is no common base class.
    except Exception as error:
        raise DataError(
            f"{config.path}: cannot be read ({reason_of(error)}); check the id, "
            f"data.revision={config.revision}, data.dataset_split={config.dataset_split} and the network. A "
            "dataset of several configurations is named hf:ID:CONFIG, and a gated or private one needs a "
            "token in the variable HF_TOKEN. Or download it, and set data.path to the folder"
        ) from error
