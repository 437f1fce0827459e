"""lit-deploy: LIT checkpoints to verified, measured ONNX files and TensorRT engines.

The names below are the public API; they are imported when first used, so that importing the package is instant.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "LitDeployError": "lit_deploy.errors",
    "EngineOptions": "lit_deploy.exporters.tensorrt",
    "InputSpec": "lit_deploy.specs",
    "Manifest": "lit_deploy.artifact",
    "ModelSpec": "lit_deploy.specs",
    "OnnxOptions": "lit_deploy.exporters.onnx",
    "QuantizeOptions": "lit_deploy.quantize",
    "Session": "lit_deploy.runtime.session",
    "SessionOptions": "lit_deploy.runtime.session",
    "Sidecar": "lit_deploy.sidecar",
    "TritonOptions": "lit_deploy.packaging.options",
    "deformable_token_merging": "lit_deploy.ops.library",
    "evaluate_artifacts": "lit_deploy.evaluate",
    "export_checkpoint": "lit_deploy.export",
    "export_engine": "lit_deploy.export",
    "load_checkpoint": "lit_deploy.checkpoints",
    "open_session": "lit_deploy.runtime.session",
    "package_triton": "lit_deploy.package",
    "predict_images": "lit_deploy.predict",
    "quantize_file": "lit_deploy.quantize",
    "read_manifest": "lit_deploy.artifact",
    "read_sidecar": "lit_deploy.sidecar",
    "run_bench": "lit_deploy.bench",
    "verify_artifact": "lit_deploy.verify",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
