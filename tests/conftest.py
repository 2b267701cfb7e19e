"""What all tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


SLOWEST_FIRST = (
    "test_crash_points.py",
    "test_notebook.py",
    "test_workers.py",
    "test_adapter.py",
    "test_bench_device.py",
    "test_sharded_loading.py",
    "test_world_models.py",
    "test_train_pairs.py",
    "test_quals_model.py",
)
"""So that no process is still at one of these when the others have ended (with --no-loadscope-reorder)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """Tiny models lose more to waiting threads than they gain, above all on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("tests of pages need Debian's Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
