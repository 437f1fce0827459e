"""Whether a graph is the one that its manifest describes: asked by whatever opens, packages or describes a file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact, graph_tensors
from lit_deploy.core.errors import ArtifactError, UsageError
from lit_deploy.core.specs import TensorSpec
from lit_deploy.tasks.table import task_of


def check_tensors(path: Path, manifest: Manifest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise ArtifactError when a graph has other inputs or outputs than its manifest promises.

    Inputs are of a fixed size exactly where the manifest says so: of a batch that a manifest alone fixes, nobody knows
    whether the graph can run it.

    Args:
        path: of the file, for messages.
        inputs, outputs: as the graph has them; outputs beyond those promised are layers.
    """
    task = task_of(manifest)
    promised = task.output_specs(manifest)
    pairs = itertools.chain(
        itertools.zip_longest(inputs, task.input_specs(manifest)),
        itertools.zip_longest(outputs[: len(promised)], promised),
    )
    for place, (found, wanted) in enumerate(pairs):
        fits = found is not None and wanted is not None and found.agrees(wanted)
        if not fits or (place < len(inputs) and _fixed(found) != _fixed(wanted)):
            raise ArtifactError(
                f"the graph of {path} has {found or 'nothing'}, its manifest promises {wanted or 'nothing'}; "
                "export it again"
            )


def require_results(manifest: Manifest, source: object) -> None:
    """Raise UsageError for a file of features: they are for an index or another network, and say nothing by themselves.

    Args:
        source: the file, for the message.
    """
    if manifest.output == "features":
        raise UsageError(
            f"{source} gives features, which name no classes; compare or index them (lit_deploy.extract_features), or "
            "export the checkpoint again with --output logits"
        )


def check_graph(artifact: OnnxArtifact, path: Path) -> None:
    """The same, of a graph that no runtime has opened."""
    check_tensors(path, artifact.manifest, *graph_tensors(artifact.graph))


def _fixed(spec: TensorSpec) -> list[bool]:
    return [isinstance(size, int) for size in spec.shape]
