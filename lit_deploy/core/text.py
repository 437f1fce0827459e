"""Text of others made fit for a line of ours."""

from __future__ import annotations

import os
import re

_CONTROL = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
OBEYED = re.compile(f"[{_CONTROL}]")
"""What a terminal obeys instead of showing it, and what cannot be encoded: control characters, those that turn the
direction of writing or break a line, and halves of surrogate pairs."""

_OBEYED_IN_LINES = re.compile(f"(?![\t\n])[{_CONTROL}]")


def printable(text: str, *, lines: bool = False) -> str:
    """A text of others as a terminal may be given it: what would be obeyed is shown, escaped as Python escapes it.

    Args:
        text: whatever a file holds, or is called.
        lines: whether line breaks and tabs are ours and stay.
    """
    return (_OBEYED_IN_LINES if lines else OBEYED).sub(lambda found: ascii(found[0])[1:-1], text)


def last_line(error: BaseException) -> str:
    """The last line of an exception's message: OpenVINO names the cause there, after its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def first_line(error: BaseException) -> str:
    """What a foreign error says in its first line, to be quoted in one of ours; its type when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shown_key(key: str) -> str:
    """Make a key from a file fit for one line of text: no control characters, at most 120 characters."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in key[:121])
    return clean if len(clean) <= 120 else clean[:117] + "..."


def shown_name(name: str) -> str:
    """A file name as text on one line that can be printed and encoded, whatever its bytes are."""
    return printable(name)


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as text that JSON can hold, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
