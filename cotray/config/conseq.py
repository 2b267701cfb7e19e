"""The section `student.conseq`: a second phase in which the student unlearns the worst that it writes."""

from __future__ import annotations

from pydantic import Field

from cotray.config.assessing import ConSeqScore
from cotray.config.base import Config


class ConSeqConfig(Config):
    score: ConSeqScore = "grounded"
    """What the teacher's rationales and the student's samples are ranked by, the highest being the best."""
    share: float = Field(default=0.3, gt=0, le=1)
    """Questions are learned from whose rationale is in this share of the best ones and whose worst sample
    is in this share of the worst ones."""
    num_samples: int = Field(default=6, ge=1)
    """Rationales that the student draws for each factual training question."""
    top_k: int = Field(default=50, ge=1)
    """Samples are drawn from so many of the likeliest tokens."""
    epochs: int = Field(default=2, ge=1)
    """Passes over the chosen questions."""
    learning_rate: float = Field(default=3e-6, gt=0)
    """In place of that of student.training."""
