"""Which versions of vLLM the teacher is made for."""

from __future__ import annotations

from cotray.errors import ConfigError

KNOWN = ("0.32", "0.33")
"""Their interfaces for logits processors are alike; docs/explanation/lockstep.md says what else is used."""


def check_version() -> None:
    """ConfigError if another one is installed: its engine might start, and couple nothing."""
    import vllm

    version = vllm.__version__
    if ".".join(version.split(".")[:2]) not in KNOWN:
        raise ConfigError(
            f"teacher.engine=vllm: vLLM {version} is installed, and the teacher knows {' and '.join(KNOWN)}; "
            "`pip install 'cotray[vllm]'` takes one of these, or set teacher.engine=transformers"
        )
