"""The page of the HTTP interface, from the OpenAPI schema that the application itself serves.

python -m cotray.serving.reference > docs/reference/http-api.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cotray.config import ServingConfig
from cotray.serving.app import create_app
from cotray.serving.schema_tables import Schema, bodies, routes
from cotray.serving.service import Backend

HEADER = """# HTTP interface

`cotray serve -c CONFIG` serves these routes, their OpenAPI schema at `/openapi.json`, and the tables
below at `/docs`. `GET /` is a web page to ask, to edit a rationale and to watch LAS.
[How to serve](../how-to/serving.md) is a page of its own.

Every route below `/v1` needs the header `Authorization: Bearer KEY`; keys come from `serving.api_keys` or the
environment variable `COTRAY_API_KEYS`. Every response has the header `X-Request-Id`, the request's own where
it sent one. Limits are keys of [the configuration's section `serving`](configuration.md#serving).

This page is generated: `python -m cotray.serving.reference > docs/reference/http-api.md`.

## Routes
"""
ERRORS = """## Errors

An error has the shape of OpenAI's. After a stream has begun, an error is its last event or line.

| status | when |
| --- | --- |
| 400 | a question that is none, or longer than a limit or than the window; what a student cannot do |
| 401 | a wrong or missing key |
| 403 | without keys (`serving.api_keys: open`): the client is not on this machine |
| 404 | no such model, or no such route |
| 408 | the body did not arrive within `serving.body_timeout_s` |
| 413 | the body is larger than `serving.max_body_bytes` |
| 422 | JSON that does not fit the schema |
| 429 | more than `serving.requests_per_minute`; `Retry-After` says when |
| 431 | headers of more than 32 KiB |
| 500 | an error of the service; the log has it under the request's id |
| 503 | all places are taken, or a replica was lost; `Retry-After` says when |
| 504 | not done within `serving.timeout_s` |
"""
EXAMPLE = """## Example

```bash
export COTRAY_API_KEYS=choose-a-key          # as the service was started with
curl -s http://127.0.0.1:8000/v1/answer -H "Authorization: Bearer $COTRAY_API_KEYS" \\
    -H 'Content-Type: application/json' -d '{"question": "Can a penguin fly?", "task": "yes_no"}'
```

With the `openai` client, `client.chat.completions.create(model="student", messages=[...])` gives the text,
and `response.choices[0].message.cotray` rationale, answer, choices and `answer_logprobs`. Where the student
named no answer, the text ends with what cotray `added` (" So the answer is no"), and `wrote_answer` is false.

Decoding is greedy, and the same request has the same answer, unless a parameter asks for something else.
Draws follow from the request's `seed`, or the run's, and the question, whatever else the models answer at the
time; the two engines draw differently. What a student cannot do is refused with 400 by its name, and so is a
name that none of OpenAI's parameters has.
"""


class _NoModels:
    """A backend to make the schema with: it is never asked."""

    shares: Mapping[str, float] = {}


def openapi() -> Schema:
    """The schema of the application."""
    return create_app(cast(Backend, _NoModels()), ServingConfig(), ()).openapi()


def page() -> str:
    """The page in Markdown: the routes, then the fields of every body."""
    schema = openapi()
    lines = [HEADER, "| route | body | answer | what it does |", "| --- | --- | --- | --- |"]
    lines += [f"| `{r.name}` | {r.body} | {r.answer} | {r.text} |" for r in routes(schema)]
    lines += ["", EXAMPLE, ERRORS, "## Bodies"]
    for body in bodies(schema):
        lines += ["", f"### {body.name}", "", *([body.text, ""] if body.text else [])]
        lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{f.name}` | {f.type} | {f.default} | {f.text} |" for f in body.fields]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
