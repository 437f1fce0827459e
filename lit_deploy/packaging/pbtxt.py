"""Protocol buffers in text format, as Triton reads them from ``config.pbtxt``. Needs no protobuf package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Message = Mapping[str, "Value"]
Value = str | bool | int | Message | Sequence["Value"]


class Name(str):
    """The name of an enum's value, which is written without quotes."""


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def message_text(message: Message, indent: str = "") -> str:
    """Write a message, one field a line.

    Args:
        message: fields by name. A list is a repeated field: of numbers and names on one line, of messages one block
            each. An entry of a map is a message of ``key`` and ``value``.
        indent: before every line.
    """
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Value, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{message_text(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(entry, Mapping) for entry in value):
            return "".join(_field(name, entry, indent) for entry in value)
        return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Name | int):
        return str(value)
    assert isinstance(value, str), f"{value!r} is no scalar"
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES or character.isprintable() or ord(character) > 127:
        return _ESCAPES.get(character, character)
    return f"\\{ord(character):03o}"  # three digits, so that a digit behind it is not taken for one of them
