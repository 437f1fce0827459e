"""Names of the classes: the 1000 of ImageNet-1k, or one name a line from a user's file. No third-party import."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from lit_deploy.core.errors import UsageError

_MAX_BYTES = 8 << 20  # far above any list of names; keeps a checkpoint given by mistake out of memory

# Controls of C0 and C1, line and paragraph separators, what turns the direction of text around, and halves of pairs.
_CONTROLS = r"\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
LABEL_PATTERN = f"^[^{_CONTROLS}]*[^ {_CONTROLS}][^{_CONTROLS}]*$"
"""What every label matches, as a regular expression of Python and of JSON Schema: one line that a terminal prints as it
is and that is not blank."""

_LABEL = re.compile(LABEL_PATTERN)


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Name the 1000 classes of ImageNet-1k.

    Returns:
        1000 distinct names in the order of the sorted WordNet ids, the order of the official training data:
        0 is ``tench``, 999 is ``toilet tissue``.

    Source: first WordNet lemma of every synset; where two classes share it (crane, cardigan, maillot), the one
    in doubt carries a distinguishing word.
    """
    text = files("lit_deploy.images").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def label_fault(labels: Sequence[str]) -> str | None:
    """Say which of these names cannot be a class's; the one rule, wherever labels come from.

    Returns:
        Part of a sentence, without a control character in it; None where all names will do.
    """
    for index, label in enumerate(labels):
        if not _LABEL.fullmatch(label):
            what = f"has control characters ({label[:40]!a})" if label.strip(" ") else "is empty"
            return f"the label of class {index} {what}, expected a name of one line"
    return None


def read_labels(path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Read class names, one a line in UTF-8, the first for class 0.

    Args:
        path: text file; a byte order mark and blanks around a name are dropped.
        num_classes: how many names the model needs.

    Returns:
        ``num_classes`` names.

    Raises:
        UsageError: the file cannot be read as text, has an empty line, a name with control characters, or
            another number of names.
    """
    file = Path(path)
    remedy = f"give a UTF-8 text file with {num_classes} class names, one a line"
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"labels file {file} does not exist: {remedy}.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"labels file {file} cannot be read ({_reason(error)}): {remedy}.") from None
    if len(content) > _MAX_BYTES:
        raise UsageError(f"labels file {file} is larger than {_MAX_BYTES >> 20} MiB: {remedy}.")
    try:
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"labels file {file} is not UTF-8 text: {remedy}.") from None
    names = [line.strip() for line in lines]
    if names == [""]:
        raise UsageError(f"labels file {file} is empty: {remedy}.")
    for number, name in enumerate(names, start=1):
        if not name:
            raise UsageError(f"line {number} of labels file {file} is empty: {remedy}.")
        if label_fault((name,)):
            raise UsageError(f"line {number} of labels file {file} has control characters: {remedy}.")
    if len(names) != num_classes:
        raise UsageError(f"labels file {file} has {len(names)} names where the model has {num_classes}: {remedy}.")
    return tuple(names)


def default_labels(num_classes: int) -> tuple[str, ...]:
    """Name classes for which nobody gave names: ImageNet's for 1000 classes, else ``class 0``, ``class 1``, ..."""
    if num_classes == 1000:
        return imagenet_labels()
    return tuple(f"class {index}" for index in range(num_classes))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
