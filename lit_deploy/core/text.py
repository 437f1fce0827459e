"""Text of others made fit for a line of ours."""

from __future__ import annotations


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
    """A file name as text that can be printed and encoded, whatever its bytes are."""
    return name.encode("utf-8", "backslashreplace").decode()
