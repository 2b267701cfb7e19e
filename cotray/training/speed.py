"""How fast a training step is: floating-point operations per second, their share of a GPU's peak, memory."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import torch

from cotray.training.four_bits import num_weights
from cotray.training.fsdp import device_of, rank_and_world

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PEAK_FLOP_PER_S = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}
"""Of dense bfloat16 products, as the makers give them."""


class StepSpeed:
    """Of one model on all workers.

    Six operations for each weight and token, two forward and four backward (Kaplan et al. 2020, section 2.1);
    looking a token up in the embeddings is none, and attention among tokens is left out.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.device = device_of(model)
        head: Any = model.get_output_embeddings()
        embeddings: Any = model.get_input_embeddings()
        is_tied = getattr(head, "weight", None) is embeddings.weight
        num_looked_up = 0 if is_tied else embeddings.weight.numel()
        self.num_weights = sum(map(num_weights, model.parameters())) - num_looked_up

    def of(self, num_tokens: float, seconds: float) -> dict[str, float]:
        """`flop_per_s` of all workers; `mfu` where the GPU's peak is known; `memory_mib` of this one."""
        rate = 6 * self.num_weights * num_tokens / seconds
        figures = {"flop_per_s": rate, "memory_mib": self._memory_mib()}
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            peak = next((value for key, value in PEAK_FLOP_PER_S.items() if key in name), None)
            if peak:
                figures["mfu"] = rate / peak / rank_and_world()[1]
        return figures

    def _memory_mib(self) -> float:
        """The most there was: allocated on the GPU, or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / (1 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
