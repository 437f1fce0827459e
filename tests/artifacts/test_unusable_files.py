"""Files that a session cannot run, or that break while they run: always one sentence, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from support.bad_files import bad_files
from support.exported import change_initializer, edited, export_of, refused_at_most_in_one_sentence

from lit_deploy.artifacts.onnx_file import read_manifest, set_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ArtifactError, LitDeployError

CheckpointFile = Callable[[str], Path]
RNG = np.random.default_rng(11)
IMAGES = RNG.standard_normal((3, 3, 64, 64)).astype(np.float32)


def test_unusable_files(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    for name, path in bad_files(tmp_path, export_of(checkpoint_file("tiny"))).items():
        session = open_session(path)
        with pytest.raises(ArtifactError) as caught:
            session.__enter__()
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name


def set_op_type(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "NoSuchOperator"


def drop_initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[5]


def cut_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer[5].raw_data = model.graph.initializer[5].raw_data[:-4]


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pictures"
    model.graph.node[0].input[0] = "pictures"


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "answers"
    model.graph.node[-1].output[0] = "answers"


def shrink_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32


@pytest.mark.parametrize(
    "change", [set_op_type, drop_initializer, cut_initializer, rename_input, rename_output, shrink_input]
)
def test_graphs_that_do_not_fit(
    change: Callable[[onnx.ModelProto], None], checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    """The graph is damaged, or is not the one that its manifest describes: refused when the session is entered."""
    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "changed.onnx", change)
    session = open_session(path)
    with pytest.raises(ArtifactError) as caught:
        session.__enter__()
    assert "\n" not in str(caught.value)


def test_layers_that_are_not_there(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    source = export_of(checkpoint_file("tiny"))
    manifest = replace(read_manifest(source), layers=("patch_embed", "nowhere"))
    path = edited(source, tmp_path / "a.onnx", lambda model: set_manifest(model, manifest))
    session = open_session(path, SessionOptions(layers=True))
    with pytest.raises(ArtifactError, match=r"lacks the value 'nowhere'"):
        session.__enter__()
    with open_session(path) as session:
        session.run({"images": IMAGES})


def test_failure_while_running(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A graph that loads and then fails in the middle of a run: still one sentence."""

    def wrong_shape(model: onnx.ModelProto) -> None:
        # the batch of the attention's result is no longer left open, so only some batches fit
        name = next(
            node.input[1] for node in model.graph.node
            if node.op_type == "Reshape" and node.name.startswith("layers.2.downsample") and
            numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == node.input[1])).size == 4
        )  # fmt: skip
        change_initializer(model, name, lambda value: np.array([1, *value[1:]]))
        model.graph.ClearField("value_info")

    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "a.onnx", wrong_shape)
    with open_session(path, SessionOptions(library=False)) as session:
        with pytest.raises(LitDeployError) as caught:
            session.run({"images": IMAGES})
        assert "\n" not in str(caught.value)
        assert session.run({"images": IMAGES[:1]})["logits"].shape == (1, 7)


class Structure:
    """An exported file, and the positions in it that are no weights: there a flipped bit does most harm."""

    def __init__(self, content: bytes) -> None:
        is_weight = np.zeros(len(content), dtype=bool)
        for tensor in onnx.load_from_string(content).graph.initializer:
            if len(tensor.raw_data) >= 32:
                start = content.find(tensor.raw_data)
                is_weight[start : start + len(tensor.raw_data)] = True
        self.content = content
        self.places = np.flatnonzero(~is_weight).tolist()


@pytest.fixture(scope="module")
def structure(checkpoint_file: CheckpointFile) -> Structure:
    return Structure(export_of(checkpoint_file("tiny")).read_bytes())


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_flipped_bits(structure: Structure, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One or two flipped bits, or a cut: the file runs, or is refused in one sentence."""
    content, places = bytearray(structure.content), structure.places
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.integers(0, 9)) == 0:
        del content[data.draw(st.sampled_from(places)) :]
    path = tmp_path_factory.getbasetemp() / "bits.onnx"
    path.write_bytes(content)
    options = SessionOptions(
        threads=1, library=data.draw(st.sampled_from((None, False))), layers=data.draw(st.booleans())
    )
    with refused_at_most_in_one_sentence(), open_session(path, options) as session:
        (images,) = session.inputs
        if images.dtype == "float32" and images.shape[1:] == (3, 64, 64):
            session.run({"images": IMAGES[: 3 if isinstance(images.shape[0], str) else images.shape[0]]})


def test_refusals_print_nothing_else(
    checkpoint_file: CheckpointFile, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime has habits of its own: error logs on stderr, and a note about a retry on stdout."""
    good = export_of(checkpoint_file("tiny"))

    def not_utf8(model: onnx.ModelProto) -> None:
        model.graph.node[3].op_type = "Match"

    changed = edited(good, tmp_path / "changed.onnx", not_utf8).read_bytes()
    tmp_path.joinpath("bytes.onnx").write_bytes(changed.replace(b"Match", b"M\xe4tch"))
    for path in (
        tmp_path / "changed.onnx",
        tmp_path / "bytes.onnx",
        edited(good, tmp_path / "cut.onnx", cut_initializer),
    ):
        session = open_session(path)
        with pytest.raises(ArtifactError):
            session.__enter__()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
