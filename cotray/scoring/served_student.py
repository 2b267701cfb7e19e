"""A student where `cotray serve` serves it, asked by `/v1/answer` as one at hand is."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from cotray.errors import ConfigError
from cotray.records import QAPair

NUM_RETRIES = 8
BUSY = (429, 502, 503, 504)
"""The server says, or means, that another try may help."""


class ServedStudent:
    """Safe for concurrent calls.

    Raises ConfigError for what no further try can help, such as a wrong key, and requests.RequestException
    where the server stays busy or away.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str = "",
        concurrency: int = 8,
        timeout_s: float = 120,
    ) -> None:
        """`url`: of the server, without a path; `model`: the version that answers, None for one by share."""
        self.url, self.model, self.timeout_s = url.rstrip("/"), model, timeout_s
        self.threads = ThreadPoolExecutor(concurrency, "cotray-served")
        self.session = requests.Session()
        self.session.headers.update({"Authorization": f"Bearer {key}"} if key else {})
        retry = Retry(NUM_RETRIES, status_forcelist=BUSY, allowed_methods=None, backoff_factor=0.5)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=concurrency, max_retries=retry))

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer) to every question."""
        said = self.threads.map(self._ask, pairs)
        return [(one["rationale"], one["answer"]) for one in said]

    def answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        """The answer that follows each rationale."""
        return [one["answer"] for one in self.threads.map(self._ask, pairs, rationales)]

    def _ask(self, pair: QAPair, rationale: str | None = None) -> dict[str, Any]:
        choices = list(pair.choices) if pair.task == "multiple_choice" else []
        body = {"question": pair.question, "task": pair.task, "choices": choices}
        body |= {"rationale": rationale} if rationale is not None else {}
        body |= {"model": self.model} if self.model else {}
        reply = self.session.post(f"{self.url}/v1/answer", json=body, timeout=self.timeout_s)
        if reply.status_code in (401, 403, 404, 405):
            raise ConfigError(f"{self.url}/v1/answer: {reply.status_code}: {_reason(reply)}")
        if not reply.ok:
            raise ValueError(f"{self.url}/v1/answer: {reply.status_code}: {_reason(reply)}")
        return reply.json()


def _reason(reply: requests.Response) -> str:
    """In one line, as the server gives it."""
    try:
        said = reply.json()
        error = said.get("error", said) if isinstance(said, dict) else said
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = reply.text
    return " ".join(str(text).split())[:300]
