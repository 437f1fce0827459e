"""Calls of the C API that are refused, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.runtime_library import Failure
from support.runtime_models import opened


def assert_refused(status: str, words: str, call: Callable[[], Any]) -> None:
    """The call fails with this status and one sentence in which these words (a regular expression) are."""
    with pytest.raises(Failure, match=words) as caught:
        call()
    assert caught.value.status == status, caught.value
    assert "\n" not in str(caught.value)


def opens(path: Path | str, **fields: Any) -> Callable[[], None]:
    """A call that opens a file and closes it."""

    def call() -> None:
        with opened(path, **fields):
            pass

    return call
