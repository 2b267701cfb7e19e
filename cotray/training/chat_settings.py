"""How other programs ask an exported student: its chat template and its generation settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotray.prompts.chat_template import chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatSettings:
    """Of a student whose questions carry `tag`; no sequence that it learned is longer than `max_length`."""

    tag: str
    max_length: int

    def put_on(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """In place of those of the model that was trained, which is asked otherwise."""
        from transformers import GenerationConfig

        is_encoder_decoder = model.config.is_encoder_decoder
        tokenizer.chat_template = None if is_encoder_decoder else chat_template(tokenizer, self.tag)
        model.generation_config = GenerationConfig(
            # Greedy in the words that all engines read: vLLM, for one, knows no do_sample, and would draw.
            do_sample=True,
            top_k=1,
            max_new_tokens=self.max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=model.config.decoder_start_token_id if is_encoder_decoder else None,
        )
