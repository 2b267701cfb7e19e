"""Worked examples of the user's own, for the prompts of teachers: read as the data are, with rationales."""

from __future__ import annotations

from functools import lru_cache

from cotray.config import DataConfig, RunConfig
from cotray.data.columns import UnusableRow
from cotray.data.questions import parse_pair
from cotray.data.readers import input_identity, read_rows
from cotray.errors import ConfigError
from cotray.prompts.teacher import Demonstrations
from cotray.records import Task


def own_demonstrations(config: RunConfig) -> Demonstrations:
    """Those of `teacher.demonstrations`, by task and in the file's order; none without it.

    Raises ConfigError, naming the row, where one cannot be used or has no rationale.
    """
    if not config.teacher.demonstrations:
        return {}
    source = config.data.model_copy(update={"path": config.teacher.demonstrations})
    return _read(source.model_dump_json(), config.seed, str(input_identity(source)))


@lru_cache(maxsize=8)
def _read(source_json: str, seed: int, identity: str) -> Demonstrations:
    """`identity` changes with the file, which every stage asks for anew."""
    source = DataConfig.model_validate_json(source_json)
    found: dict[Task, list[dict]] = {}
    for origin, row in read_rows(source):
        try:
            pair = parse_pair(row, source, seed=seed)
        except UnusableRow as error:
            raise ConfigError(f"teacher.demonstrations: {origin}: {error}") from None
        rationale = pair.human_rationale.strip()
        if not rationale:
            raise ConfigError(
                f"teacher.demonstrations: {origin}: has no rationale; see data.columns.rationale"
            )
        example = {"question": pair.question, "choices": list(pair.choices), "answer": pair.answer}
        found.setdefault(pair.task, []).append(example | {"rationale": rationale})
    if not found:
        raise ConfigError(f"teacher.demonstrations: {source.path} has no rows")
    return found
