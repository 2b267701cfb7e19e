"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """Tiny models lose more to waiting threads than they gain, above all on a busy machine."""
    import torch

    torch.set_num_threads(1)
