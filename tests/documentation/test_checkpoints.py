"""The page on checkpoints: every refusal that it lists is what a file of that kind is told."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import changed, prefixed, tensors, write, write_pickle
from support.golden import TINY

import lit_deploy
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import LitDeployError
from lit_deploy.exporters.options import OnnxOptions, described
from lit_deploy.models.build import build

PAGE = Path(lit_deploy.__file__).parents[1] / "docs" / "checkpoints.md"
ROWS = dict(re.findall(r"^\| ([^|]+) \| `([^|]+)` \| [^|]+ \|$", PAGE.read_text().split("## What is refused")[1], re.M))


def saved(content: Any) -> Callable[[Path], None]:
    return lambda path: write(path, content) and None


def bytes_of(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." * 100)


def overlapping(path: Path) -> None:
    write(path, tensors())
    content = path.read_bytes()
    place = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)  # the directory's second record
    path.write_bytes(content[: place + 42] + bytes(4) + content[place + 46 :])


def index_of(path: Path) -> None:
    path.write_text('{"weight_map": {"head.bias": "a.safetensors"}}')


def classes(path: Path) -> None:
    save_checkpoint(make_state(TINY), path, "state_dict", classes=("a\x1b", *"bcdefg"))


def larger(path: Path) -> None:
    torch.save({"model": {"head.bias": torch.zeros(1).expand(9)}}, path)


FILES: dict[str, Callable[[Path], Any]] = {
    "a directory": Path.mkdir,
    "a pipe, socket or device": os.mkfifo,
    "an HTML page, a Git LFS pointer, an archive, a picture ...": bytes_of(b"<html>"),
    "an exported .onnx file or engine": bytes_of(b"\x08\x0a\x12\x07pytorch"),
    "a truncated or damaged file": bytes_of(b"\x80\x02"),
    "a pickled model (`torch.save(model)`)": lambda path: torch.save(build(TINY), path),
    "a pickle that calls anything else than the above": lambda path: write_pickle(path, b"cos\nsystem\n"),
    "a pickle of another protocol": lambda path: torch.save(tensors(), path, pickle_protocol=4),
    "a TorchScript archive": lambda path: torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path)),
    "a compressed zip": compressed,
    "a zip whose records overlap": overlapping,
    "a tensor larger than what is stored for it": larger,
    "more than 20,000 tensors": saved({"model": dict.fromkeys((f"a.{i}" for i in range(21_000)), torch.zeros(1))}),
    "values nested more than 100 deep": lambda path: write_pickle(path, b"N" + b"\x85" * 200),
    "a dict whose attributes replace its methods": lambda path: write_pickle(
        path, b"ccollections\nOrderedDict\n)R}X\x03\0\0\0getNsb"
    ),
    "several networks, none of them `state_dict` or `model`": saved({"net": tensors(), "best_net": tensors()}),
    "several networks in one state dict": saved({**prefixed("student."), **prefixed("teacher.")}),
    "a key that is not there": saved({"model": tensors()}),
    "an index whose file is missing, or lies elsewhere": index_of,
    "an optimizer's state alone": saved({"state": {}, "param_groups": []}),
    "another network": saved(
        {f"layers.0.{key}": torch.zeros(2) for key in ("blocks.0.relative_position_bias_table", "downsample.reduction")}
    ),
    "a LIT with other keys or shapes": saved(changed("head.bias", None)),
    "an 8-bit checkpoint": saved(changed("head.bias", torch.zeros(7, dtype=torch.int8))),
    "weights that are not finite": saved(changed("head.bias", torch.full((7,), float("nan")))),
    "class names with control characters (at export)": classes,
}


def test_every_row_is_tried() -> None:
    assert FILES.keys() == ROWS.keys()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refusals(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    FILES[kind](path)
    key = "nothing" if kind == "a key that is not there" else None
    with pytest.raises(LitDeployError) as caught:
        described(load_checkpoint(path, key), OnnxOptions())
    assert ROWS[kind] in str(caught.value)
