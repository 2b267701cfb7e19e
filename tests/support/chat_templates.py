"""Chat templates of the form that Llama 3, Qwen 3 and Gemma have, and tiny models that come with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from cotray.models.loading import load_model
from cotray.models.random_models import byte_tokenizer, make_random

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|stop|>\n\n"
    "{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}<|start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
THINKER = QWEN.partition("{% if enable_thinking")[0] + "<think>\n{% endif %}"
TEMPLATES = {"llama": LLAMA, "qwen": QWEN, "gemma": GEMMA}


def tokenizer_of(template: str) -> Any:
    """With a beginning of text that it adds to every text, where the template writes one."""
    backend: Any = byte_tokenizer().backend_tokenizer
    backend.add_special_tokens(["<bos>", "<|start|>", "<|stop|>", "<|end|>"])
    if "bos_token" in template:
        begin = [("<bos>", backend.token_to_id("<bos>"))]
        backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=begin)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )
    tokenizer.chat_template = template
    return tokenizer


def chat_model(folder: Path, template: str, *, num_unused: int = 0) -> str:
    """A tiny random model with such a tokenizer, and with so many places that it has no token for."""
    make_random("random:llama", folder)
    tokenizer = tokenizer_of(template)
    model: Any = load_model(str(folder), dtype=torch.float32)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer) + num_unused, mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
