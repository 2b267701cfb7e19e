"""Shell text as the simple commands in it, as far as documentation uses the language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_OPERATOR = re.compile(r"&&|\|\||>>|<<|[;|&()<>\n]")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")
_SUBSTITUTION = re.compile(r"\$\([^()]*(\([^()]*\)[^()]*)*\)")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
_KEYWORDS = {"if", "then", "else", "elif", "while", "until", "do", "!", "time", "nice", "nohup"}
_ENDS = {"fi", "done"}


@dataclass
class Command:
    """One program with its arguments; `stdin` is a here document, `target` where its output goes."""

    words: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    stdin: str = ""
    target: str = ""


def commands(text: str, environment: Mapping[str, str]) -> Iterator[Command]:
    """The commands of a text one after the other, whatever joins them.

    Variables are replaced from `environment` and from what the text exports; one that is not set raises
    ValueError, and so does a quote that does not end. `$(...)` stays as it is written.
    """
    known = dict(environment)
    command, redirection = Command(), ""
    for token, is_operator in _tokens(text, known):
        if is_operator:
            if token in ("<", ">", ">>", "<<"):
                redirection = token
            elif command.words or command.environment:
                known |= _assigned(command)
                yield command
                command = Command()
        elif redirection == "<<":
            command.stdin, redirection = token, ""
        elif redirection:
            command.target, redirection = token, ""
        elif not command.words and (found := _ASSIGNMENT.fullmatch(token)):
            command.environment[found[1]] = found[2]
        elif command.words or token not in _KEYWORDS | _ENDS:
            command.words.append(token)


def _assigned(command: Command) -> dict[str, str]:
    """What later commands know of this one."""
    if command.words[:1] == ["export"]:
        found = [_ASSIGNMENT.fullmatch(word) for word in command.words[1:]]
        return {match[1]: match[2] for match in found if match}
    return {} if command.words else command.environment


def _tokens(text: str, known: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Words and operators; the word after `<<` is the here document itself."""
    text = re.sub(r"\d?>&\d", "", text.replace("\\\n", "")) + "\n"
    position, documents = 0, {}
    is_document = False
    while position < len(text):
        if position in documents:
            position = documents.pop(position)
            continue
        character = text[position]
        if character in " \t":
            position += 1
        elif character == "#":
            position = text.index("\n", position)
        elif operator := _OPERATOR.match(text, position):
            yield operator[0], True
            is_document, position = operator[0] == "<<", operator.end()
        else:
            word, position = _word(text, position, known)
            if is_document:
                begin = text.index("\n", position) + 1
                end = re.compile(rf"^{re.escape(word)}$", re.M).search(text, begin)
                if not end:
                    raise ValueError(f"the here document {word} does not end")
                documents[begin] = end.end()
                word, is_document = text[begin : end.start()], False
            yield word, False


def _word(text: str, position: int, known: Mapping[str, str]) -> tuple[str, int]:
    parts: list[str] = []
    while not (text[position] in " \t" or _OPERATOR.match(text, position)):
        character = text[position]
        if character == "'":
            end = _end_of(text, position, "'")
            parts.append(text[position + 1 : end])
            position = end + 1
        elif character == '"':
            end = _end_of(text, position, '"')
            quoted = text[position + 1 : end]
            parts.append(
                re.sub(r'\\(["\\$])', r"\1", _VARIABLE.sub(lambda found: _value(found, known), quoted))
            )
            position = end + 1
        elif substitution := _SUBSTITUTION.match(text, position):
            parts.append(substitution[0])
            position = substitution.end()
        elif variable := _VARIABLE.match(text, position):
            parts.append(_value(variable, known))
            position = variable.end()
        elif character == "\\":
            parts.append(text[position + 1])
            position += 2
        else:
            parts.append(character)
            position += 1
    return "".join(parts), position


def _end_of(text: str, position: int, quote: str) -> int:
    end = position + 1
    while end < len(text) and text[end] != quote:
        substitution = _SUBSTITUTION.match(text, end) if quote == '"' else None
        end = substitution.end() if substitution else end + 1 + (quote == '"' and text[end] == "\\")
    if end >= len(text):
        raise ValueError(f"a {quote} does not end: {text[position : position + 60]!r}")
    return end


def _value(found: re.Match[str], known: Mapping[str, str]) -> str:
    name = found[1] or found[2]
    if name not in known:
        raise ValueError(f"${name} is not set")
    return known[name]
