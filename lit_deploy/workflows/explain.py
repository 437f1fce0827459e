"""Where an exported file looks in a picture: what its mergings sample, and what chosen tokens attend to.

Nothing of it comes from PyTorch. The inputs of the operators become further outputs of a copy of the graph in memory;
from these, sampling positions and attention weights follow by the definitions of the operators
(``docs/deformable_token_merging.md``, ``docs/relative_position_attention.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.base import filled
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.ops.deformable_token_merging import schema as merging
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.relative_position_attention import schema as attention
from lit_deploy.tasks.table import task_of

if TYPE_CHECKING:
    import onnx

FIRST_ATTENTION = 3
"""The first stage that attends; tokens are named by their place in its map."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """What one deformable token merging does to a picture.

    Attributes:
        module: its name in PyTorch; ``stage``: 1 to 3, whose tokens it merges.
        size: height and width of its map in tokens; ``token``: side of a token in pixels of the input.
        offsets: float32 ``[H//2, W//2, 4, 2]``: dy, dx of every tap in tokens of the map.
    """

    module: str
    stage: int
    size: tuple[int, int]
    token: int
    offsets: Floats

    @property
    def taps(self) -> Floats:
        """Where the taps were without offsets: row and column on the map, ``[H//2, W//2, 4, 2]``."""
        rows, columns = self.offsets.shape[:2]
        corners = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
        found: Floats = (2 * corners[:, :, None] + np.array(merging.TAPS)).astype(np.float32)
        return found

    @property
    def positions(self) -> Floats:
        """Row and column on the map that every tap samples, ``[H//2, W//2, 4, 2]``; integers are tokens' centres."""
        return self.taps + self.offsets

    @property
    def shifts(self) -> Floats:
        """How far every tap has moved, in tokens, ``[H//2, W//2, 4]``."""
        found: Floats = np.linalg.norm(self.offsets, axis=-1)
        return found

    @property
    def outside(self) -> float:
        """Share of the samples that lie so far outside of the map that they are 0."""
        inside = (self.positions > -1) & (self.positions < np.array(self.size))
        return 1 - float(inside.all(axis=-1).mean())


@dataclass(frozen=True)
class Attention:
    """What chosen tokens attend to in one block.

    Attributes:
        module: name of the attention in PyTorch; ``stage``: 3 or 4; ``block``: of that stage, from 1.
        size: height and width of the map in tokens; ``token``: side of a token in pixels of the input.
        tokens: the chosen ones, rows and columns of this map.
        weights: float32 ``[tokens, heads, H*W]``, or one more for a class token, which comes first then; they add up to
            1 for every head.
    """

    module: str
    stage: int
    block: int
    size: tuple[int, int]
    token: int
    tokens: tuple[tuple[int, int], ...]
    weights: Floats

    @property
    def maps(self) -> Floats:
        """The weights of the map's tokens, meant over the heads, ``[tokens, H, W]``."""
        height, width = self.size
        found: Floats = self.weights[:, :, -height * width :].mean(axis=1).reshape(-1, height, width)
        return found


@dataclass(frozen=True)
class Explanation:
    """Where a file looked in a picture.

    Attributes:
        artifact, image: paths as they were given; ``description``: of the session.
        pixels: uint8 ``[H, W, 3]``, RGB: the picture as the network takes it.
        samplings: of the three mergings; ``attentions``: of every block, empty where no token was chosen.
    """

    artifact: str
    image: str
    description: str
    pixels: NDArray[np.uint8]
    samplings: tuple[Sampling, ...]
    attentions: tuple[Attention, ...]


def explain_image(
    artifact: str | Path,
    image: str | Path,
    tokens: Sequence[tuple[int, int]] = (),
    options: SessionOptions | None = None,
) -> Explanation:
    """Tell what the mergings of an exported file sample in a picture, and what tokens attend to.

    Args:
        artifact: ``.onnx`` file, of any task and precision, that holds our operators: not a portable one.
        image: image file.
        tokens: rows and columns of the map of stage 3, from 0; in stage 4 the token that has merged each is meant.
        options: threads and library; ONNX Runtime runs it.

    Raises:
        UsageError: a file of another kind or without the operators, or a token outside the map.
        ArtifactError, ImageError, MissingDependency: as their names say.
    """
    import onnx

    path = Path(artifact)
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} is no .onnx file; name the .onnx file that was exported from the same checkpoint")
    source = OnnxArtifact.read(path)
    graph, manifest = source.graph.graph, source.manifest
    wanted = (merging.OP_TYPE, attention.OP_TYPE) if tokens else (merging.OP_TYPE,)
    nodes = [node for node in graph.node if node.domain == DOMAIN and node.op_type in wanted]
    for kind, least in zip(wanted, (manifest.model.mergings, 1), strict=False):
        if sum(node.op_type == kind for node in nodes) < least:
            raise UsageError(
                f"{path} holds no operator {kind}, whose inputs tell where it looks; export the checkpoint without "
                "--portable, and in another precision than fp8"
            )
    inputs = {name for node in nodes for name in node.input}
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in inputs
    }
    values = tuple(sorted(inputs - set(constants)))
    task, base = task_of(manifest), options or SessionOptions()
    (picture,) = task.pictures([image], manifest)
    with open_session(source, SessionOptions(threads=base.threads, library=base.library, values=values)) as session:
        outputs = session.run(task.feed(filled([picture], session.batch_range[0]), manifest))
        description = session.description
    found: dict[str, Floats] = {
        name: array.astype(np.float32) for name, array in {**constants, **outputs}.items() if name in inputs
    }
    samplings, attentions = _explained(nodes, found, manifest.model.patch_size, tokens)
    return Explanation(
        artifact=str(path),
        image=str(image),
        description=description,
        pixels=picture.pixels,
        samplings=samplings,
        attentions=attentions,
    )


def _explained(
    nodes: Sequence[onnx.NodeProto], found: Mapping[str, Floats], patch: int, tokens: Sequence[tuple[int, int]]
) -> tuple[tuple[Sampling, ...], tuple[Attention, ...]]:
    """What the operators do, in the order they run: a merging ends its stage.

    Args:
        found: their inputs by name, float32; ``patch``: side of a token of stage 1 in pixels.
    """
    from onnx import helper

    samplings: list[Sampling] = []
    attentions: list[Attention] = []
    for node in nodes:
        module, stage, inputs = node.name.rpartition("/")[0], len(samplings) + 1, [found[name] for name in node.input]
        token = patch << (stage - 1)
        if node.op_type == merging.OP_TYPE:
            size, offsets = _offsets(*inputs)
            samplings.append(Sampling(module=module, stage=stage, size=size, token=token, offsets=offsets))
            continue
        rows, columns = (side // 2 for side in samplings[-1].size)
        if stage == FIRST_ATTENTION:
            _check_tokens(tokens, rows, columns)
        halvings = stage - FIRST_ATTENTION
        # an odd last row or column has been dropped
        chosen = [(min(row >> halvings, rows - 1), min(column >> halvings, columns - 1)) for row, column in tokens]
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        weights = _weights(
            *inputs, size=(rows, columns), tokens=chosen, heads=attributes["num_heads"], scale=attributes["scale"]
        )
        block = 1 + sum(each.stage == stage for each in attentions)
        attentions.append(
            Attention(
                module=module,
                stage=stage,
                block=block,
                size=(rows, columns),
                token=token,
                tokens=tuple(chosen),
                weights=weights,
            )
        )
    return tuple(samplings), tuple(attentions)


def _check_tokens(tokens: Sequence[tuple[int, int]], rows: int, columns: int) -> None:
    for row, column in tokens:
        if not (0 <= row < rows and 0 <= column < columns):
            raise UsageError(
                f"the token is {row},{column}, expected a row of 0 to {rows - 1} and a column of 0 to {columns - 1}: "
                f"stage {FIRST_ATTENTION} has {rows} x {columns} tokens for this picture"
            )


def _offsets(x: Floats, weight: Floats, bias: Floats) -> tuple[tuple[int, int], Floats]:
    """Size of the map, and the offsets of the first picture, from the inputs of a merging."""
    height, width, channels = x.shape[1:]
    rows, columns = height // 2, width // 2
    patches = x[0, : 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, channels).transpose(0, 2, 1, 3, 4)
    offsets = patches.reshape(rows, columns, -1) @ weight.T + bias
    return (height, width), offsets.reshape(rows, columns, len(merging.TAPS), 2)


def _weights(
    qkv: Floats,
    table: Floats,
    *,
    size: tuple[int, int],
    tokens: Sequence[tuple[int, int]],
    heads: int,
    scale: float,
) -> Floats:
    """Weights ``[tokens, heads, N]`` of the first picture, from the inputs of an attention and its attributes."""
    height, width = size
    channels, before = qkv.shape[2] // 3, qkv.shape[1] - height * width  # a class token comes first
    chosen = [before + row * width + column for row, column in tokens]
    queries, keys = qkv[0, chosen, :channels], qkv[0, :, channels : 2 * channels]
    queries, keys = (each.reshape(len(each), heads, -1).transpose(1, 0, 2) for each in (queries, keys))
    logits = scale * queries @ keys.transpose(0, 2, 1)  # [heads, tokens, N]
    if table.size:  # of the query at (r, c), the keys in reverse order have the window that begins at (r, c)
        windows = [table[:, r : r + height, c : c + width][:, ::-1, ::-1].reshape(heads, -1) for r, c in tokens]
        logits = logits + np.stack(windows, axis=1)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights: Floats = (powers / powers.sum(axis=-1, keepdims=True)).transpose(1, 0, 2)
    return weights
