"""The models of the world: a teacher that knows it, a simulator that can read, a student that knows nothing.

All are Llamas of less than half a million parameters, in Hugging Face format like any other model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cotray.config.training import TrainingConfig
from cotray.config.world import parse_model_name
from cotray.records import TrainExample
from cotray.seeds import digest
from cotray.world.lessons import simulator_examples, teacher_examples
from cotray.world.tokenizer import SPECIAL, build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WIDTH = 128
HEAD_WIDTH = 32
"""The narrowest that vLLM takes."""
_PHASE = TrainingConfig(
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup_fraction=0.02,
    batch_size=64,
    micro_batch_size=64,
)
NUM_STEPS = {"grounded": 640, "as it writes": 480, "reading": 320}
"""The teacher first learns what is true, from grounded rationales alone, then how often to write which."""


def make_world_model(name: str, target: Path) -> None:
    """Write the model of a complete name into a folder; teacher and simulator are trained first, which takes
    about a minute where two cores are free."""
    role, config = parse_model_name(name)
    tokenizer = build_tokenizer(config)
    model = initial_model(tokenizer)
    if role == "teacher":
        _learn(model, tokenizer, "grounded", list(teacher_examples(config, 0.0)))
        _learn(model, tokenizer, "as it writes", list(teacher_examples(config, config.vacuous)))
    if role == "simulator":
        _learn(model, tokenizer, "reading", list(simulator_examples(config)))
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def folder_name(name: str) -> str:
    """Of a complete name in the cache; it changes with all that the weights depend on beside the name."""
    role, _ = parse_model_name(name)
    recipe = (str(WIDTH), _PHASE.model_dump_json(), str(NUM_STEPS))
    return f"world-{role}-{digest(0, name, *recipe):016x}"


def initial_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=WIDTH // HEAD_WIDTH,
        num_key_value_heads=WIDTH // HEAD_WIDTH,
        max_position_embeddings=256,
        # The usual 0.02 is for widths of thousands: at this one, what two words mean together is not
        # learned from it in a thousand steps, and from 1 / sqrt(width) in a hundred.
        initializer_range=WIDTH**-0.5,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index("<pad>"),
        eos_token_id=SPECIAL.index("<eos>"),
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def _learn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    what: str,
    examples: Sequence[TrainExample],
) -> None:
    """With the loop that trains students too."""
    import torch

    from cotray.training.batches import StudentBatches
    from cotray.training.examples import Examples
    from cotray.training.loop import train

    num_examples = NUM_STEPS[what] * _PHASE.batch_size
    phase = _PHASE.model_copy(update={"epochs": math.ceil(num_examples / len(examples))})
    with torch.random.fork_rng():
        train(
            model,
            tokenizer,
            StudentBatches(
                Examples.of(examples, tokenizer, is_encoder_decoder=False),
                batch_size=phase.batch_size,
                alpha=0.0,
                seed=0,
            ),
            [],
            phase,
            alpha=0.0,
            seed=0,
            report=lambda metrics: None,
            save_checkpoint=lambda state: None,
            restore_from=None,
        )
    model.eval()
