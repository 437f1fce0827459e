"""From an ONNX model to an OpenVINO IR: an ``.xml`` and a ``.bin`` file, both of them or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lit_deploy.artifacts.inlining import inlined
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.openvino_file import RT_INFO, Extension, seal_ir, weights_path
from lit_deploy.core.errors import ExportError, refuse_for_memory
from lit_deploy.core.files import atomic_path, sha256_of
from lit_deploy.core.text import last_line
from lit_deploy.machine import native
from lit_deploy.machine.packages import PACKAGES, imported, require


def _prepared(artifact: OnnxArtifact) -> tuple[OnnxArtifact, Extension | None]:
    """A model as OpenVINO can read it here, and the extension that its operators then need everywhere.

    Where the extension was not built, the operators are inlined: the network becomes a portable one.
    """
    if artifact.manifest.portable:
        return artifact, None
    library = native.find_extension()
    if library is None:
        return OnnxArtifact(inlined(artifact.graph), artifact.manifest).described(portable=True), None
    return artifact, Extension(library.name, sha256_of(library))


@contextlib.contextmanager
def written_ir(artifact: OnnxArtifact, out: Path) -> Iterator[tuple[Path, OnnxArtifact, Extension | None]]:
    """Convert a model and yield the IR, whole, under a temporary name, with what it was made of and needs.

    Both files get their names when the context ends without an exception, and are gone otherwise. Should the process
    die between the two renames, the weights are new and the graph is not: OpenVINO finds every weight by its place, and
    refuses weights of another size.

    Args:
        artifact: what to convert; ``out``: the ``.xml`` file, the weights lie beside it.

    Raises:
        MissingDependency: OpenVINO is not installed. ExportError: it refuses the model. UsageError: no place to write.
    """
    require("writing an OpenVINO IR", "openvino")
    with imported("openvino", "OpenVINO is not installed", "OpenVINO", PACKAGES["openvino"].install):
        import openvino

    artifact, extension = _prepared(artifact)
    core = openvino.Core()
    with atomic_path(out, weights_path) as part:
        try:
            if extension is not None:
                core.add_extension(str(native.find_extension()))
            model = core.read_model(artifact.graph.SerializeToString())
            model.set_rt_info("", list(RT_INFO))  # what seal_ir fills in
            openvino.save_model(model, str(part), compress_to_fp16=False)
        except RuntimeError as error:
            refuse_for_memory(error)
            raise ExportError(f"OpenVINO {openvino.__version__} refuses the model ({last_line(error)})") from None
        seal_ir(part, artifact.manifest, extension)
        yield part, artifact, extension
