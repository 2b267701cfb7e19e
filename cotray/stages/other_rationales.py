"""Rationales for the answers to test questions that are wrong: other_requests/ and other_rationales/.

`generate` writes none, because nobody learns from them; `probe` asks which answer follows them.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig
from cotray.data.perturbation import other_requests
from cotray.data.prepare import settings_of as prepare_settings
from cotray.records import Rationale, TeacherRequest
from cotray.stages.generate import settings_of as generate_settings
from cotray.stages.generate import write_rationales
from cotray.storage.lease import Fence
from cotray.storage.manifest import FileEntry, Manifest, fingerprint
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards

KEY = ("id", "target_answer")
"""What tells their rows apart: a question has one for every other choice."""


def write_other_rationales(
    config: RunConfig, folder: RunFolder, fence: Fence, account: str | None, *, overwrite: bool, label: str
) -> Manifest:
    """The manifest of other_rationales/, which has no rows where no test question has choices."""
    config = one_draw(config)
    requests = _requests(config, folder, fence, overwrite=overwrite)
    settings = settings_of(config)
    state = folder.begin(
        "other_rationales", settings=settings, input=requests.fingerprint, overwrite=overwrite
    )
    if state == "done":
        return folder.require("other_rationales", "probe")
    shards = Shards(
        folder.root,
        "other_requests",
        "other_rationales",
        Rationale,
        fingerprint(settings, requests.fingerprint),
        all_rows,
        key=KEY,
        fence=fence,
        source_version=requests.version,
    )
    return write_rationales(
        config,
        folder,
        shards,
        settings,
        requests.fingerprint,
        total=requests.num_out,
        account=account,
        label=f"{label}: rationales",
    )


def one_draw(config: RunConfig) -> RunConfig:
    """Each is written once, and nobody looks at its tokens."""
    decoding = config.teacher.decoding.model_copy(update={"num_samples": 0})
    teacher = config.teacher.model_copy(update={"decoding": decoding, "record_scores": False})
    return config.model_copy(update={"teacher": teacher})


def settings_of(config: RunConfig) -> dict[str, Any]:
    return generate_settings(one_draw(config)) | {"kinds": ["counterfactual"]}


def all_rows(table: pa.Table) -> Any:
    return pa.array([True] * table.num_rows)


def _requests(config: RunConfig, folder: RunFolder, fence: Fence, *, overwrite: bool) -> Manifest:
    """Read from requests/, file by file."""
    source = folder.require("requests", "prepare", settings=prepare_settings(config))
    if folder.begin("other_requests", settings={}, input=source.fingerprint, overwrite=overwrite) == "done":
        return folder.require("other_requests", "probe")
    num_rows, files = 0, list[FileEntry]()
    for path in folder.parquet_files("requests"):
        name = path.rpartition("/")[2]
        table = folder.read_table(f"requests/{name}", version=source.version)
        is_factual, is_test = pc.equal(table["kind"], "factual"), pc.equal(table["split"], "test")  # type: ignore[attr-defined]
        chosen = table.filter(pc.and_(is_factual, is_test)).to_pylist()  # type: ignore[attr-defined]
        rows = [other for row in chosen for other in other_requests(TeacherRequest.from_row(row))]
        fence.check()
        files.append(
            folder.write_records(
                f"other_requests/{name}", rows, TeacherRequest, version=fingerprint({}, source.fingerprint)
            )
        )
        num_rows += len(rows)
    return folder.finish(Manifest("other_requests", {}, source.fingerprint, num_rows, num_rows, 0), files)
