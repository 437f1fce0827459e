"""Damaged and forged checkpoints: always one sentence, never another exception, never much memory."""

from __future__ import annotations

import io
import itertools
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.checkpoints import changed, peak_memory, tensors, write
from support.golden import TINY, TINY_TI

from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.keys import optional_key


@pytest.mark.parametrize("kind", ["expanded", "expanded_legacy", "resized", "resized_legacy", "zip_bomb"])
def test_forged_sizes_use_no_memory(tmp_path: Path, kind: str) -> None:
    """Shapes of gigabytes in a small file are refused before anything is allocated for them."""
    path = tmp_path / "lit.pth"
    legacy = kind.endswith("legacy")
    if kind.startswith("expanded"):  # strides of zero: any shape over one number
        torch.save(
            changed("head.weight", torch.zeros(1).expand(2**15, 2**15)), path, _use_new_zipfile_serialization=not legacy
        )
    elif kind.startswith("resized"):  # more numbers than the storage holds
        torch.save({"head.weight": Forged()}, path, _use_new_zipfile_serialization=not legacy)
    else:
        write(path, tensors())
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
            for member in source.infolist():
                data = source.read(member)
                bomb.writestr(member.filename, b"\0" * 2**28 if member.filename.endswith("/data/0") else data)
        path = tmp_path / "bomb.pth"
        assert path.stat().st_size < 2**20
    peak, (sentence,) = peak_memory(path)
    assert sentence.startswith("CheckpointError"), sentence
    assert peak < 150e6


class Forged:
    """Pickles as a float32 tensor of four gigabytes over a storage of four numbers."""

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (
            torch.storage.TypedStorage(
                wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
            ),
            0,
            (2**30,),
            (1,),
            False,
            OrderedDict(),
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint in every file format."""
    folder = tmp_path_factory.mktemp("fuzz")
    save_checkpoint(make_state(TINY), folder / "zip", "model+cfgnode")
    save_checkpoint(make_state(TINY), folder / "legacy", "model+namespace", legacy=True)
    save_file(dict(tensors()), folder / "safetensors")
    return folder


def loads_or_refuses(path: Path, content: bytes) -> bool:
    """Only CheckpointError may come out, in one line; True when the file loaded."""
    path.write_bytes(content)
    sentence = ""
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        sentence = str(error)
    assert "\n" not in sentence
    return not sentence


fuzz = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
formats = st.sampled_from(("zip", "legacy", "safetensors"))


@fuzz
@given(formats, st.floats(0, 1, exclude_max=True))
def test_truncated(tmp_path: Path, whole: Path, kind: str, part: float) -> None:
    content = (whole / kind).read_bytes()
    assert not loads_or_refuses(tmp_path / "lit.pth", content[: int(part * len(content))])


@fuzz
@given(formats, st.booleans(), st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.integers(0, 255))
def test_flipped_bits(tmp_path: Path, whole: Path, kind: str, head: bool, place: float, bit: int, noise: int) -> None:
    """A flipped bit and a byte of noise nearby, half of them in the first 4 kB where the structure is.

    A zip has checksums, so damage inside its records never goes unnoticed.
    """
    content = bytearray((whole / kind).read_bytes())
    position = int(place * min(len(content), 4096 if head else len(content)))
    content[position] ^= 1 << bit
    content[(position + noise) % len(content)] ^= noise
    loads_or_refuses(tmp_path / "lit.pth", bytes(content))


@fuzz
@given(st.data())
def test_zip_checksums(tmp_path: Path, whole: Path, data: st.DataObject) -> None:
    """One flipped bit in any stored weight is always noticed."""
    content = bytearray((whole / "zip").read_bytes())
    marker = make_state(TINY)["layers.2.blocks.0.attn.qkv.weight"].tobytes()
    start = bytes(content).index(marker)
    content[start + data.draw(st.integers(0, len(marker) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not loads_or_refuses(tmp_path / "lit.pth", bytes(content))


@fuzz
@given(st.data())
def test_pickle_noise(tmp_path: Path, whole: Path, data: st.DataObject) -> None:
    """Damaged opcodes inside a zip whose checksums are right: the unpickler's errors become one sentence."""
    path = tmp_path / "lit.pth"
    with zipfile.ZipFile(whole / "zip") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            content = bytearray(old.read(member))
            if member.filename.endswith("/data.pkl"):
                for _ in range(data.draw(st.integers(1, 4))):
                    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            new.writestr(member.filename, bytes(content))
    loads_or_refuses(path, path.read_bytes())


NAMES = (
    b"builtins\neval",
    b"collections\nOrderedDict",
    b"torch\nFloatStorage",
    b"argparse\nNamespace",
    b"_codecs\nencode",
)
FURTHER = (
    b"0",
    b"1",
    b"2",
    b"(",
    b"}",
    b"]",
    b")",
    b"N",
    b"K\x00",
    b"h\x00",
    b"R",
    b"b",
    b"\x81",
    b"Q",
    b"s",
    b"a",
    b"\x85",
)


@settings(fuzz, max_examples=200)
@given(st.data())
def test_pickle_opcodes(tmp_path: Path, whole: Path, data: st.DataObject) -> None:
    """Whole opcodes dropped, doubled, moved, replaced and added: well-formed pickles that mean something else."""
    path = tmp_path / "lit.pth"
    with zipfile.ZipFile(whole / "zip") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith("/data.pkl"):
                places = [place for _, _, place in pickletools.genops(io.BytesIO(content))] + [len(content)]
                opcodes = [content[begin:end] for begin, end in itertools.pairwise(places)]
                for _ in range(data.draw(st.integers(1, 4))):
                    mutate(opcodes, data)
                content = b"".join(opcodes)
            new.writestr(member.filename, content)
    loads_or_refuses(path, path.read_bytes())


def mutate(opcodes: list[bytes], data: st.DataObject) -> None:
    """One change; half of them near the begin or the end, where the structure is."""
    length = len(opcodes)
    near = st.one_of(st.integers(1, min(40, length - 1)), st.integers(max(1, length - 40), length - 1))
    place = data.draw(st.one_of(near, st.integers(1, length - 1)))
    kind = data.draw(st.sampled_from(("drop", "double", "move", "name", "add")))
    if kind == "drop":
        del opcodes[place]
    elif kind == "double":
        opcodes.insert(place, opcodes[place])
    elif kind == "move":
        opcodes.insert(data.draw(st.integers(1, length - 1)), opcodes.pop(place))
    elif kind == "name":
        opcodes[place] = b"c" + data.draw(st.sampled_from(NAMES)) + b"\n"
    else:
        opcodes.insert(place, data.draw(st.sampled_from(FURTHER)))


@fuzz
@given(st.sampled_from((TINY, TINY_TI)), st.data())
def test_wrong_shapes_and_renamed_keys(tmp_path: Path, spec: ModelSpec, data: st.DataObject) -> None:
    state = tensors(spec)
    weights = [key for key in state if not optional_key(key)]
    for key in data.draw(st.lists(st.sampled_from(weights), min_size=1, max_size=3, unique=True)):
        change = data.draw(st.sampled_from(("drop", "rename", "reshape")))
        value = state.pop(key)
        if change == "rename":
            state[data.draw(st.text(max_size=12)) + key + "_"] = value
        elif change == "reshape":
            shape = data.draw(
                st.lists(st.integers(0, 6), max_size=4).filter(lambda s, old=value.shape: tuple(s) != old)
            )
            state[key] = torch.zeros(shape)
    path = write(tmp_path / "lit.pth", state)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
