"""State dicts and checkpoint files that are whole, or changed in one place."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from lit_deploy.checkpoints.seeded import make_state
from lit_deploy.core.specs import ModelSpec
from support.golden import TINY


def tensors(spec: ModelSpec = TINY) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((key, torch.from_numpy(value)) for key, value in make_state(spec).items())


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def changed(key: str, value: torch.Tensor | None) -> OrderedDict[str, torch.Tensor]:
    state = tensors()
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state
