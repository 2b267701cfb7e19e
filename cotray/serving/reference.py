"""The page of the HTTP interface, from the OpenAPI schema that the application itself serves.

python -m cotray.serving.reference > docs/reference/http-api.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from cotray.config import ServingConfig
from cotray.serving.app import create_app
from cotray.serving.schema import LasLine
from cotray.serving.service import Backend

Schema = Mapping[str, Any]

HEADER = """# HTTP interface

`python -m jobs.serve -c CONFIG` serves these routes, and their OpenAPI schema at `/openapi.json`. `GET /` is
a web page to ask, to edit a rationale and to watch LAS. [How to serve](../how-to/serving.md) is a page of its
own.

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
| 400 | a question that is none, or is longer than a limit or than the model's window |
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
and `response.choices[0].message.cotray` rationale, answer, choices and `answer_logprobs`. Decoding is greedy:
sampling parameters are accepted and change nothing.
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
    bodies: dict[str, Schema] = schema["components"]["schemas"] | {"LasLine": LasLine.model_json_schema()}
    lines = [
        HEADER,
        "| route | body | answer | what it does |",
        "| --- | --- | --- | --- |",
        *_routes(schema),
    ]
    lines += ["", EXAMPLE, ERRORS, "## Bodies"]
    for name in (*_in_order(schema), "LasLine", "ErrorBody", "Problem"):
        body = bodies[name]
        if "properties" in body:
            lines += ["", f"### {name}", "", *_texts(body), "| field | type | default | meaning |"]
            lines += ["| --- | --- | --- | --- |", *_fields(body)]
    return "\n".join(lines) + "\n"


def _routes(schema: Schema) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            text = " ".join(route.get("description", "").split())
            asked = _body_of(route.get("requestBody", {}))
            given = _body_of(route["responses"]["200"]) or _media_of(route["responses"]["200"])
            # Streams of lines have no schema in OpenAPI.
            given = given or "lines of [LasLine](#lasline)"
            yield f"| `{method.upper()} {path}` | {asked} | {given} | {text} |"


def _body_of(part: Schema) -> str:
    """A link to the body's own table; "" without a body that has one."""
    ref = part.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    name = ref.rpartition("/")[2]
    return f"[{name}](#{name.lower()})" if name else ""


def _media_of(part: Schema) -> str:
    media = next(iter(part.get("content", {})), "")
    return "JSON" if media == "application/json" else media


def _in_order(schema: Schema) -> list[str]:
    """Names of the bodies as the routes name them, each followed by those inside it."""
    bodies = schema["components"]["schemas"]
    found: dict[str, None] = {}

    def add(node: Any) -> None:
        for name in _refs(node):
            if name in bodies and name not in found:
                found[name] = None
                add(bodies[name])

    for methods in schema["paths"].values():
        for route in methods.values():
            add(route.get("requestBody", {}))
            add(route["responses"]["200"])
    return list(found)


def _refs(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "$ref" in node:
            yield str(node["$ref"]).rpartition("/")[2]
        for value in node.values():
            yield from _refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _refs(value)


def _texts(body: Schema) -> list[str]:
    text = " ".join(body.get("description", "").split())
    return [text, ""] if text else []


def _fields(body: Schema) -> Iterator[str]:
    for name, field in body["properties"].items():
        default = "required" if name in body.get("required", ()) else f"`{json.dumps(field.get('default'))}`"
        text = " ".join(field.get("description", "").split())
        yield f"| `{name}` | {_type(field)} | {default} | {text} |"


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := field.get("anyOf"):
        return " or ".join(_type(option) for option in options)
    if values := field.get("enum") or ([field["const"]] if "const" in field else []):
        return ", ".join(f"`{value}`" for value in values)
    kind = str(field.get("type", ""))
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}" + _bounds(field, "Items", " entries")
    names: dict[str, str] = {
        "string": "text",
        "object": "mapping",
        "boolean": "true or false",
        "null": "null",
        "": "any",
    }
    return names.get(kind, kind) + _bounds(field, "Length", " characters") + _bounds(field, "imum", "")


def _bounds(field: Schema, what: str, unit: str) -> str:
    low, high = (None if (n := field.get(f"{end}{what}")) is None else f"{n:.0f}" for end in ("min", "max"))
    if low and high:
        return f" ({low} to {high}{unit})"
    return f" (at least {low}{unit})" if low else f" (at most {high}{unit})" if high else ""


if __name__ == "__main__":
    print(page(), end="")
