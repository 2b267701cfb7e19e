"""vLLM's two doors to `Coupling`: one for each interface that its model runners have for logits processors.

vLLM chooses the runner: V2 on GPUs, V1 where there is no Triton, as on CPUs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

from cotray.teacher.contrastive import Decoding
from cotray.teacher.coupling import Coupling, CouplingSettings, Slot

NAME = "cotray"
"""Of our part in vLLM's `additional_config` and in a request's `extra_args`."""


def processor_of(vllm_config: VllmConfig) -> str:
    """Where vLLM finds the processor for the runner that it uses."""
    door = PairedSlots if vllm_config.use_v2_model_runner else PairedRows
    return f"{__name__}:{door.__name__}"


class PairedRows(LogitsProcessor):
    """V1's door: told what changed in the rows of the batch since the last step."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        num_rows = vllm_config.scheduler_config.max_num_seqs
        self.coupling = Coupling(_settings(vllm_config), num_places=num_rows, device=device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """In vLLM's order: removed, added (which may replace), moved."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.coupling.put(index, None)
        for index, params, _, output in batch_update.added:
            extra = _extra(params)
            self.coupling.put(index, Slot(**extra, output=output) if extra else None)
        for source, target, direction in batch_update.moved:
            self.coupling.move(source, target, is_swap=direction == MoveDirectionality.SWAP)
        self.coupling.regroup()

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        self.coupling.apply(logits)
        return logits


class PairedSlots(LogitsProcessorV2):
    """V2's door: a request keeps its slot, every step orders the rows anew, and nobody says who has left.

    A slot that was left is in no row until it is given away, and then `add_request` replaces what was there.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._states = req_states
        self._num_slots = req_states.max_num_reqs
        self.coupling = Coupling(_settings(vllm_config), num_places=self._num_slots, device=req_states.device)
        self._slot_of = np.empty(0, dtype=np.int64)
        """Of every row, as the coupling's groups were made for it."""

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        extra = _extra(sampling_params)
        self.coupling.put(req_idx, Slot(**extra) if extra else None)
        self._slot_of = np.empty(0, dtype=np.int64)
        return extra is not None

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Rows `(num_requests, V)`; RuntimeError if a request has several, as in speculative decoding."""
        slot_of = ctx.idx_mapping_np
        if len(logits) != len(slot_of):
            raise RuntimeError(
                "contrastive pairs need one row of logits per request: no speculative decoding"
            )
        if not np.array_equal(slot_of, self._slot_of):
            row_of = np.full(self._num_slots, -1, dtype=np.int64)
            row_of[slot_of] = np.arange(len(slot_of))
            self.coupling.regroup(row_of)
            self._slot_of = slot_of.copy()
        num_outputs_R = ctx.pos + 1 - self._states.prompt_len.gpu[ctx.idx_mapping]
        self.coupling.apply(logits, num_outputs_R)
        return logits


def _settings(vllm_config: VllmConfig) -> CouplingSettings:
    configured: Any = vllm_config.additional_config
    settings = dict(configured[NAME])
    settings["decoding"] = Decoding(**settings["decoding"])
    return CouplingSettings(**settings)


def _extra(params: SamplingParams) -> dict[str, Any] | None:
    return (params.extra_args or {}).get(NAME)
