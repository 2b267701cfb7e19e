"""What a finished run's rows say of each test question, for every figure that runs are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from cotray.probing.figures import COLUMNS, by_question
from cotray.records import ProbedAnswer, Simulation
from cotray.report.comparison import student_columns
from cotray.storage.manifest import fingerprint
from cotray.storage.run_folder import RunFolder

UNPROBED: dict[str, float] = dict.fromkeys(COLUMNS, np.nan)


def run_columns(folder: RunFolder) -> dict[str, dict[str, float]]:
    """Question id -> columns; those of `probe` are NaN where it did not run on this student.

    In the made-up world `score` asks for `following` too, and then that counts.
    """
    is_probed = probing_of(folder) is not None
    probed = by_question(probed_answers(folder)) if is_probed else {}
    return {
        row.id: _columns(row, probed.get(row.id, UNPROBED))
        for row in folder.read_records("simulations", Simulation)
    }


def probing_of(folder: RunFolder) -> dict[str, Any] | None:
    """The figures of `probe`, if it asked the student that is there now; else None."""
    probes, student, rationales = map(folder.manifest, ("probes", "student", "rationales"))
    if probes is None or student is None or rationales is None:
        return None
    others = folder.manifest("other_rationales")
    sources = [fingerprint(student.fingerprint, rationales.fingerprint)]
    if others is not None:
        sources.append(fingerprint(student.fingerprint, rationales.fingerprint, others.fingerprint))
    return probes.metrics if probes.input in sources else None


def probed_answers(folder: RunFolder) -> list[ProbedAnswer]:
    """All rows that `probe` made without an error."""
    stages = [stage for stage in ("probes", "other_answers") if folder.manifest(stage)]
    rows = chain.from_iterable(folder.read_records(stage, ProbedAnswer) for stage in stages)
    return [row for row in rows if not row.error]


def _columns(row: Simulation, probed: Mapping[str, float]) -> dict[str, float]:
    own = student_columns(row)
    followed = probed["following"] if np.isnan(own["followed"]) else own["followed"]
    return {**probed, **own, "followed": followed}
