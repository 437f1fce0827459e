"""lit-deploy: LIT checkpoints to verified, measured ONNX files and TensorRT engines.

The names below are the public API; they are imported when first used, so that importing the package is instant.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# From 1.31 on ONNX Runtime notes its use in a database, with a number for this device, as soon as it is loaded. That is
# when it reads this, which is therefore set before any module of ours can load it. Processes that we start inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "LitDeployError": "lit_deploy.core.errors",
    "EngineOptions": "lit_deploy.exporters.engine_options",
    "InputSpec": "lit_deploy.core.specs",
    "Manifest": "lit_deploy.artifacts.manifest",
    "ModelSpec": "lit_deploy.core.specs",
    "OnnxOptions": "lit_deploy.exporters.onnx",
    "QuantizeOptions": "lit_deploy.quantize.run",
    "Session": "lit_deploy.backends.protocol",
    "SessionOptions": "lit_deploy.backends.protocol",
    "Sidecar": "lit_deploy.artifacts.sidecar",
    "TritonOptions": "lit_deploy.packaging.options",
    "build_model": "lit_deploy.models.build",
    "checkpoint_from_state": "lit_deploy.checkpoints.load",
    "deformable_token_merging": "lit_deploy.ops.deformable_token_merging.library",
    "evaluate_artifacts": "lit_deploy.evaluate.run",
    "explain_image": "lit_deploy.workflows.explain",
    "export_checkpoint": "lit_deploy.workflows.export",
    "export_engine": "lit_deploy.workflows.export",
    "export_model": "lit_deploy.workflows.export",
    "extract_features": "lit_deploy.workflows.features",
    "load_checkpoint": "lit_deploy.checkpoints.load",
    "open_session": "lit_deploy.backends.open",
    "package_triton": "lit_deploy.packaging.package",
    "predict_images": "lit_deploy.workflows.predict",
    "predict_to_file": "lit_deploy.workflows.predict_file",
    "quantize_file": "lit_deploy.quantize.run",
    "read_manifest": "lit_deploy.artifacts.onnx_file",
    "read_sidecar": "lit_deploy.artifacts.sidecar",
    "run_bench": "lit_deploy.bench.run",
    "verify_artifact": "lit_deploy.workflows.verify",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
