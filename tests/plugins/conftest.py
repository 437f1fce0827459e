"""Fixtures that several test modules of the C runtime share."""

from __future__ import annotations

from support.runtime_engines import call, play
from support.runtime_models import backend

__all__ = ["backend", "call", "play"]
