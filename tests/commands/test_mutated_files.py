"""2,000 damaged files of every kind that we read: no traceback, no signal, no hang, and never much memory."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from support.checkpoints import tensors
from support.command import ROOT
from support.exported import export_of, needs_library
from support.fake_tensorrt import write_engine
from support.golden import TINY
from support.mutations import mutated

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.core.journal import Key
from lit_deploy.evaluate.classification import ClassificationEvaluation, ClassRecord
from lit_deploy.evaluate.state import FORMAT, BatchRecord, open_state
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.workflows.export_ir import export_ir

CheckpointFile = Callable[[str], Path]
HANG = 120
"""Seconds after which an answer is not expected any more, on a machine that does much else."""


class Opener:
    """A process that opens files; a new one takes the place of one that died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, target: str, *arguments: object) -> dict[str, Any]:
        if self._process is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.opening_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env=environment,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([target, *map(str, arguments)]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANG)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.close()
            return {"code": "hang" if ready == [] else f"signal {process.returncode}", "out": "", "err": "", "peak": 0}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    opener.close()


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of file: a whole one, how it is opened, and what a success may be."""

    whole: Path
    target: tuple[object, ...]
    """What opens it; FILE stands for the file."""
    sound: Callable[[str, str], bool]
    """Whether what was printed is right, given what the whole file prints."""
    count: int


FILE = "{file}"


def same(out: str, whole: str) -> bool:
    return out == whole


def same_network(out: str, whole: str) -> bool:
    """Of a checkpoint: a weight that changed cannot be noticed, a network of another form can."""
    return bool(json.loads(out)["model"] == json.loads(whole)["model"])


def probable(out: str, _: str) -> bool:
    """Of a prediction: a weight that changed cannot be noticed, but what is printed are probabilities of classes."""
    (found,) = json.loads(out)
    return all(math.isfinite(p) and 0 <= p <= 1 for p in found["probabilities"]) and set(found["classes"]) <= set(
        range(TINY.num_classes)
    )


def a_document(out: str, _: str) -> bool:
    return isinstance(json.loads(out), dict | list | int)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: CheckpointFile) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("whole")
    checkpoint = checkpoint_file("tiny")
    file = export_of(checkpoint)
    save_checkpoint(make_state(TINY), folder / "legacy.pth", "model+namespace", legacy=True)
    save_file(dict(tensors()), folder / "tiny.safetensors")
    picture = Image.fromarray(synthetic_image(4, "mutated", 60, 80))
    picture.save(folder / "photo.png")
    picture.save(folder / "photo.jpg", progressive=True)
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(TINY.num_classes)))
    np.savez(folder / "images.npz", np.stack([synthetic_image(4, str(i), 64, 64) for i in range(8)]))
    engine = folder / "tiny.engine"
    shutil.copy(file, folder / "tiny.onnx")
    write_engine(folder / "tiny.onnx", engine)
    export_ir(checkpoint, folder / "tiny.xml", OnnxOptions(portable=True), verify=False, threads=1)
    key = Key("images", ("artifact",), ("settings",), FORMAT)
    with open_state(folder / "state.jsonl", key, ClassificationEvaluation.RECORD) as state:
        for batch in range(4):
            found = ClassRecord((1, 0, 2), (0.5, 0.25, 0.125))
            state.append(BatchRecord(batch, ((1, "damaged"),) if batch == 2 else (), ((found, found),), (0.5,)))
    spec = json.dumps(dataclasses.asdict(read_manifest(file).input))
    predict = ("command", "predict", FILE, folder / "photo.png", "--json", "--threads", 1)
    look = ("command", "predict", file, FILE, "--json", "--threads", 1)
    return {
        "checkpoint": Kind(checkpoint, ("command", "inspect", FILE, "--json"), same_network, 250),
        "legacy checkpoint": Kind(folder / "legacy.pth", ("command", "inspect", FILE, "--json"), same_network, 250),
        "safetensors": Kind(folder / "tiny.safetensors", ("command", "inspect", FILE, "--json"), same_network, 200),
        "onnx": Kind(file, predict, probable, 350),
        "ir": Kind(folder / "tiny.xml", (*predict[:2], folder / "tiny.xml", *predict[3:]), probable, 100),
        "sidecar": Kind(Path(f"{engine}.json"), ("command", "inspect", engine, "--json"), a_document, 200),
        "png": Kind(folder / "photo.png", look, probable, 200),
        "jpeg": Kind(folder / "photo.jpg", look, probable, 150),
        "labels": Kind(folder / "labels.txt", ("labels", FILE, TINY.num_classes), a_document, 100),
        "state": Kind(folder / "state.jsonl", ("state", FILE, key.line().decode()), a_document, 200),
        "npz": Kind(folder / "images.npz", ("calibration", FILE, spec), a_document, 150),
    }


KINDS = (
    "checkpoint",
    "legacy checkpoint",
    "safetensors",
    "onnx",
    "ir",
    "sidecar",
    "png",
    "jpeg",
    "labels",
    "state",
    "npz",
)


@needs_library
@pytest.mark.parametrize("name", KINDS)
def test_mutated(name: str, kinds: dict[str, Kind], opener: Opener, tmp_path: Path) -> None:
    kind = kinds[name]
    content = kind.whole.read_bytes()
    in_place = FILE not in kind.target  # what lies beside another file stays there
    file = kind.whole if in_place else tmp_path / kind.whole.name

    def opened(data: bytes) -> dict[str, Any]:
        file.write_bytes(data)
        return opener(*(file if word == FILE else word for word in kind.target))

    whole = opened(content)
    assert whole["code"] == 0, whole
    refused, wrong = 0, []
    try:
        for index, data in enumerate(mutated(content, kind.count, 14)):
            answer = opened(data)
            refused += answer["code"] != 0
            reason = what_is_wrong(answer, whole, kind)
            if reason:
                wrong.append(f"{index}: {reason}: {answer}")
    finally:
        file.write_bytes(content)
    assert not wrong, f"{len(wrong)} of {kind.count}:\n" + "\n".join(wrong[:10])
    assert refused > kind.count / 10, "the mutations are harmless: this proves nothing"


def what_is_wrong(answer: dict[str, Any], whole: dict[str, Any], kind: Kind) -> str:
    """What an answer to a mutated file should not have been; empty when it is right."""
    if "\x1b" in answer["out"] + answer["err"]:
        return "an escape for the terminal"
    if answer["peak"] - whole["peak"] > 512 << 10:
        return "memory"
    if answer["code"] == 0:
        return "" if kind.sound(answer["out"], whole["out"]) else "an unsound success"
    if answer["code"] != 2:
        return "how it ended"
    first, *more = answer["err"].splitlines() or [""]
    listing = "missing" in answer["err"] or "unexpected" in answer["err"]  # of keys, below the sentence
    return "" if first.startswith("error: ") and (listing or not more) else "more than a sentence"
