"""Good and bad manifests and sidecars, as changes of whole ones: what every reader is held to."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from support.golden import DATA


@dataclass(frozen=True)
class Document:
    """One change of a document, and what readers are to make of it.

    Attributes:
        of: what is changed; ``why``: what is done to it; ``good``: whether it can still be read.
        set, drop: values that are put in, and keys that are taken out, by the way to them.
        beyond_schema: no JSON Schema can say what is wrong.
    """

    of: Literal["manifest", "sidecar"]
    good: bool
    why: str
    set: tuple[tuple[tuple[str | int, ...], Any], ...] = ()
    drop: tuple[tuple[str | int, ...], ...] = ()
    beyond_schema: bool = False

    def applied(self, whole: dict[str, Any]) -> dict[str, Any]:
        """The changed document."""
        document = copy.deepcopy(whole)
        for way, value in self.set:
            _inside(document, way)[way[-1]] = value
        for way in self.drop:
            del _inside(document, way)[way[-1]]
        return document


def _inside(document: Any, way: tuple[str | int, ...]) -> Any:
    for key in way[:-1]:
        document = document[key]
    return document


def documents(of: str) -> list[Any]:
    """All of a kind, as parameters of a test."""
    entries = json.loads((DATA / "documents.json").read_text(encoding="utf-8"))
    found = [Document(**{**entry, "set": _tuples(entry.get("set", []))}) for entry in entries if entry["of"] == of]
    assert len(found) > 20
    return [pytest.param(document, id=document.why) for document in found]


def _tuples(changes: list[Any]) -> tuple[Any, ...]:
    return tuple((tuple(way), value) for way, value in changes)
