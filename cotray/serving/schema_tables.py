"""What the OpenAPI schema says, as cells of tables: text with `code` and [links](#to-tables) in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cotray.serving.schema import LasLine

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Route:
    name: str
    """`GET /healthz`"""
    body: str
    answer: str
    text: str


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    default: str
    text: str


@dataclass(frozen=True)
class Body:
    name: str
    text: str
    fields: tuple[Field, ...]


def routes(schema: Schema) -> Iterator[Route]:
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            given = _body_of(route["responses"]["200"]) or _media_of(route["responses"]["200"])
            yield Route(
                f"{method.upper()} {path}",
                _body_of(route.get("requestBody", {})),
                # Streams of lines have no schema in OpenAPI.
                given or "lines of [LasLine](#lasline)",
                _text_of(route),
            )


def bodies(schema: Schema) -> Iterator[Body]:
    """As the routes name them, each followed by those inside it; then those of no one route."""
    known: dict[str, Schema] = schema["components"]["schemas"] | {"LasLine": LasLine.model_json_schema()}
    for name in (*_in_order(schema), "LasLine", "ErrorBody", "Problem"):
        if "properties" in known[name]:
            yield Body(name, _text_of(known[name]), tuple(_fields(known[name])))


def _text_of(part: Schema) -> str:
    return " ".join(part.get("description", "").split())


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


def _fields(body: Schema) -> Iterator[Field]:
    for name, field in body["properties"].items():
        default = "required" if name in body.get("required", ()) else f"`{json.dumps(field.get('default'))}`"
        yield Field(name, _type(field), default, _text_of(field))


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
