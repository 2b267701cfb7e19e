"""The chat template of a trained student, with which any chat client asks it as it was trained.

docs/explanation/method.md#student-sequences
"""

from __future__ import annotations

import json
from itertools import takewhile

from cotray.prompts.student import student_source
from cotray.records import QAPair

# A student knows no conversation: what counts is the last message of the user, and what the assistant has
# written after it. Choices that stand on lines of their own are put on one line, as in training.
_TEMPLATE = """\
{%- set said = namespace(text="") -%}
{%- for message in messages -%}
{%- set content = message.content -%}
{%- if content is not string -%}
{%- set content = content | map(attribute="text") | join("\\n") -%}
{%- endif -%}
{%- if message.role == "user" -%}
{%- set said.text = TAG ~ (content | trim) -%}
{%- for letter in "BCDEFGHIJKLMNOPQRSTUVWXYZ" -%}
{%- set said.text = said.text | replace("\\n(" ~ letter ~ ") ", " (" ~ letter ~ ") ") -%}
{%- endfor -%}
{%- set said.text = BEGIN ~ said.text ~ "\\n" -%}
{%- elif message.role == "assistant" -%}
{%- set said.text = said.text ~ content ~ eos_token -%}
{%- endif -%}
{%- endfor -%}
{{- said.text -}}
"""


def chat_template(tokenizer, tag: str) -> str | None:
    """Renders the user's message, a question with its lettered choices, as the source of a decoder-only
    student whose questions carry `tag`.

    The text of a template is tokenized without the special tokens that the tokenizer puts before any other
    text, so that they stand in it; some tokenizers put a space before the first word too. None where no
    template gives the tokens of training.
    """
    pair = QAPair("", "multiple_choice", "Is it so?", ("Yes, it is", "No"), "No")
    asked = [{"role": "user", "content": student_source(pair, tag="")}]
    wanted = tokenizer(student_source(pair, tag=tag)).input_ids
    special = takewhile(lambda token: token in tokenizer.all_special_ids, wanted)
    begin = "".join(tokenizer.convert_ids_to_tokens(list(special)))
    for space in ("", " "):
        template = _TEMPLATE.replace("TAG", json.dumps(f"{tag} " if tag else ""))
        template = template.replace("BEGIN", json.dumps(begin + space))
        found = tokenizer.apply_chat_template(
            asked,
            chat_template=template,
            add_generation_prompt=True,
            return_dict=False,
            tokenizer_kwargs={"split_special_tokens": False},
        )
        if found == wanted:
            return template
    return None
