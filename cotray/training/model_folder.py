"""What training leaves behind: a folder in Hugging Face format, which nothing needs PEFT to read.

An adapter is merged into the weights, and lies beside them in `adapter/` as PEFT reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

from cotray.models.loading import layer_stacks
from cotray.training.adapter import change_of, has_adapter, is_of_adapter, plain_name, save_adapter
from cotray.training.chat_settings import ChatSettings
from cotray.training.checkpoint import TrainState, restore_best, weights
from cotray.training.four_bits import in_float32, is_in_four_bits, num_weights
from cotray.training.fsdp import rank_and_world

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_BYTES = 4 * 2**30
"""Of one file of weights; larger models are written in several."""


def export(
    state: TrainState,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    chat: ChatSettings | None = None,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Write the best weights in Hugging Face format from rank 0; every worker must call this.

    Leaves the best weights in the model. Rank 0 holds one file of them at a time in host memory, of
    `most_bytes` and a block more. `chat` replaces what the model that was trained says of how it is asked;
    the default keeps it.
    """
    restore_best(state)
    model, is_writer = state.model, rank_and_world()[0] == 0
    if chat is not None and is_writer:
        chat.put_on(model, tokenizer)
    size = sum(map(_num_bytes, weights(model).values()))
    if size <= most_bytes:
        whole = dict(_merged(model, is_writer))
        if is_writer:
            model.save_pretrained(folder, state_dict=whole)
    else:
        files = _Files(model, Path(folder)) if is_writer else None
        for part in _parts(model, is_writer, most_bytes):
            if files:
                files.write(part)
        if files:
            files.finish()
    if has_adapter(model):
        own = {name: tensor for name, tensor in weights(model).items() if is_of_adapter(name)}
        adapter = dict(_whole(own, is_writer))
        if is_writer:
            save_adapter(model, adapter, folder)
    if is_writer:
        tokenizer.save_pretrained(folder)


def _whole(tensors: dict[str, torch.Tensor], is_writer: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor in host memory and float32, for the writer; the other workers only help to gather it."""
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_writer:
            yield name, in_float32(full).detach().cpu()


def _num_bytes(tensor: torch.Tensor) -> int:
    return 4 * num_weights(tensor) if tensor.is_floating_point() or is_in_four_bits(tensor) else tensor.nbytes


def _merged(model: PreTrainedModel, is_writer: bool) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights(model).items():
        if is_of_adapter(name):
            continue
        change = change_of(model, name) if has_adapter(model) else None
        for _, full in _whole({name: tensor}, is_writer):
            yield plain_name(name), full if change is None else full + change.cpu()


def _parts(model: PreTrainedModel, is_writer: bool, most_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    """The weights in their order, cut between blocks: what the files join or split is all of one block."""
    blocks = {id(block) for stack in layer_stacks(model) for block in stack}
    paths = sorted(path for path, module in model.named_modules() if id(module) in blocks)
    part: dict[str, torch.Tensor] = {}
    size, last = 0, None
    for name, tensor in _merged(model, is_writer):
        block = next((path for path in paths if name.startswith(f"{path}.")), "")
        if size >= most_bytes and block != last:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size, last = size + tensor.numel() * tensor.itemsize, block
    if part:
        yield part


class _Files:
    """A model's files, written one after the other; their number is in their names, and known at the end."""

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.parts: list[list[str]] = []
        self.size = 0
        model.save_pretrained(folder, state_dict={})

    def write(self, part: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file
        from transformers.core_model_loading import revert_weight_conversion

        ignored = self.model._keys_to_ignore_on_save or ()
        kept = {name: tensor for name, tensor in part.items() if name not in ignored}
        named = revert_weight_conversion(self.model, kept)
        named = {name: tensor.contiguous() for name, tensor in named.items()}
        save_file(named, self._path(len(self.parts)), metadata={"format": "pt"})
        self.parts.append(list(named))
        self.size += sum(tensor.numel() * tensor.itemsize for tensor in named.values())

    def finish(self) -> None:
        places = {}
        for index, names in enumerate(self.parts):
            file = f"model-{index + 1:05}-of-{len(self.parts):05}.safetensors"
            self._path(index).rename(self.folder / file)
            places |= dict.fromkeys(names, file)
        index_of = {"metadata": {"total_size": self.size}, "weight_map": dict(sorted(places.items()))}
        text = json.dumps(index_of, indent=2) + "\n"
        (self.folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    def _path(self, index: int) -> Path:
        return self.folder / f"part-{index}.safetensors"
