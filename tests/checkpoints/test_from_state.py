"""Checkpoints that are in memory: a state dict as a training loop has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.checkpoints import tensors
from support.golden import TINY

from lit_deploy.checkpoints.load import checkpoint_from_state, load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import CheckpointError, StateDictMismatch
from lit_deploy.models.build import build


def test_the_same_tensors_as_from_a_file(tmp_path: Path) -> None:
    save_checkpoint(make_state(TINY), tmp_path / "a.pth")
    file, memory = load_checkpoint(tmp_path / "a.pth"), checkpoint_from_state(tensors())
    assert memory.spec == file.spec == TINY
    assert list(memory.state) == list(file.state)
    assert all(torch.equal(memory.state[key], file.state[key]) for key in file.state)


def test_what_surrounds_the_weights_does_not_change_their_hash() -> None:
    """Prefixes, buffers, a parameter's gradient: the same weights have the same hash, others another."""
    usual = checkpoint_from_state(tensors())
    model = build(usual.spec, usual.state).train()
    wrapped = {f"module.{key}": value for key, value in model.state_dict(keep_vars=True).items()}
    assert checkpoint_from_state(wrapped).sha256 == usual.sha256
    with torch.no_grad():
        model.head.bias += 1
    assert checkpoint_from_state(model.state_dict()).sha256 != usual.sha256
    assert torch.equal(usual.state["head.bias"], tensors()["head.bias"]), "a copy: training goes on without it"


def test_what_is_no_lit_is_refused_in_one_sentence_without_values() -> None:
    state = tensors()
    for wrong in (
        {**state, "head.bias": [1.0] * 1000},
        {**state, 3: state["head.bias"]},
        {**state, "head.bias": state["head.bias"] * float("nan")},
        {"conv1.weight": torch.rand(3, 3)},
    ):
        with pytest.raises(CheckpointError) as caught:
            checkpoint_from_state(wrong)
        assert "tensor(" not in str(caught.value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)
    del state["head.bias"]
    with pytest.raises(StateDictMismatch, match=r"1 missing \(head.bias\)"):
        checkpoint_from_state(state)
