"""What Python and C++ have to agree on, in one place.

``python -m lit_deploy.artifacts.contract`` (``make contract``) writes it as ``plugins/contract.h``, and the layout of
manifests and sidecars as JSON Schema beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from lit_deploy.artifacts.manifest import FORMAT, MANIFEST_KEY, OLDEST_FORMAT
from lit_deploy.artifacts.preflight import FP8_LEAST
from lit_deploy.artifacts.schema import manifest_schema, sidecar_schema
from lit_deploy.artifacts.sidecar import MAX_RANK, Compatibility
from lit_deploy.core.files import PACKAGE, write_text
from lit_deploy.core.specs import (
    BEST_CLASSES,
    IMAGE,
    IMAGES,
    MAX_BATCH,
    MAX_DETECTIONS,
    MAX_JSON_BYTES,
    MAX_MEAN,
    MAX_NESTING,
    MAX_RESIZE,
    MAX_SIDE,
    MAX_STD,
    MAX_THREADS,
    MIN_STD,
    OP_VERSION,
    ORIGINAL_SIZE,
    CalibrationMethod,
    DenseSpec,
    FamilyName,
    InputKind,
    InputSpec,
    Interpolation,
    ModelSpec,
    OutputKind,
    PrecisionHint,
    PrecisionName,
    ResizeRule,
    TaskName,
)
from lit_deploy.images.decoding import MAX_PIXELS
from lit_deploy.images.keep_ratio import MAX_DETECTION_PIXELS, MAX_SEGMENTATION_PIXELS, MIN_SIDE
from lit_deploy.machine.tensorrt import RTX_TARGETS, BackendName
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE
from lit_deploy.ops.domain import CUDA_DEVICE, DEVICE_ENTRY
from lit_deploy.ops.multi_level_roi_align.schema import OP_TYPE as ROI_ALIGN
from lit_deploy.ops.nms.matrix_form import COMPLETE

ABI_VERSION = 1
"""Version of the C API; ``lit_runtime.h`` says when it grows, and holds the same number."""

Value = int | float | str | tuple[str, ...] | tuple[float, ...]

_CONSTANTS: tuple[tuple[str, dict[str, Value]], ...] = (
    (
        "The C API.",
        {"kAbiVersion": ABI_VERSION, "kMaxThreads": MAX_THREADS, "kPrecisionHints": get_args(PrecisionHint)},
    ),
    (
        "The operators, and TensorRT's plugins of the same names.",
        {
            "kDomain": DOMAIN,
            "kOpType": OP_TYPE,
            "kRoiAlignOpType": ROI_ALIGN,
            "kOpVersion": OP_VERSION,
            "kOpVersionText": str(OP_VERSION),
        },
    ),
    (
        "The custom-op library of ONNX Runtime.",
        {"kDeviceEntry": DEVICE_ENTRY, "kCudaDevice": CUDA_DEVICE},
    ),
    (
        "Manifests and sidecars.",
        {
            "kManifestKey": MANIFEST_KEY,
            "kOldestFormat": OLDEST_FORMAT,
            "kFormat": FORMAT,
            "kMaxBatch": MAX_BATCH,
            "kMaxJsonBytes": MAX_JSON_BYTES,
            "kMaxNesting": MAX_NESTING,
            "kMaxRank": MAX_RANK,
            "kInputName": IMAGES,
            "kImageName": IMAGE,
            "kOriginalSizeName": ORIGINAL_SIZE,
            "kCompleteName": COMPLETE,
            "kBestClasses": BEST_CLASSES,
            "kDefaultClasses": ModelSpec.num_classes,
            "kDefaultChannels": ModelSpec.in_channels,
            "kMaxDetections": MAX_DETECTIONS,
            "kDefaultScoreThreshold": DenseSpec.score_threshold,
            "kDefaultIouThreshold": DenseSpec.iou_threshold,
            "kDefaultMaxDetections": DenseSpec.max_detections,
            "kDefaultCandidates": DenseSpec.candidates,
            "kTasks": get_args(TaskName),
            "kFamilies": get_args(FamilyName),
            "kOutputs": get_args(OutputKind),
            "kPrecisions": get_args(PrecisionName),
            "kCalibrationMethods": get_args(CalibrationMethod),
            "kBackends": get_args(BackendName),
            "kCompatibilities": get_args(Compatibility),
            "kRtxTargets": RTX_TARGETS,
            "kFp8Least": FP8_LEAST,
        },
    ),
    (
        "Pictures.",
        {
            "kInputKinds": get_args(InputKind),
            "kInterpolations": get_args(Interpolation),
            "kResizeRules": get_args(ResizeRule),
            "kDefaultMean": InputSpec.mean,
            "kDefaultStd": InputSpec.std,
            "kMaxPixels": MAX_PIXELS,
            "kMaxDetectionPixels": MAX_DETECTION_PIXELS,
            "kMaxSegmentationPixels": MAX_SEGMENTATION_PIXELS,
            "kMinSide": MIN_SIDE,
            "kMaxSide": MAX_SIDE,
            "kMaxResize": MAX_RESIZE,
            "kMaxMean": MAX_MEAN,
            "kMinStd": MIN_STD,
            "kMaxStd": MAX_STD,
        },
    ),
)
"""By subject. Lists keep the order in which C++ counts their words."""

_HEAD = """\
// Written by `make contract` from lit_deploy/artifacts/contract.py: do not edit.
// What Python and C++ have to agree on.
#ifndef LIT_DEPLOY_CONTRACT_H_
#define LIT_DEPLOY_CONTRACT_H_

#include <array>
#include <cstdint>

namespace lit_deploy::contract {
"""

_TAIL = """
}  // namespace lit_deploy::contract

#endif  // LIT_DEPLOY_CONTRACT_H_
"""


def header() -> str:
    """The C++17 header."""
    parts = [
        f"\n// {title}\n" + "".join(_line(name, value) for name, value in constants.items())
        for title, constants in _CONSTANTS
    ]
    return _HEAD + "".join(parts) + _TAIL


def _line(name: str, value: Value) -> str:
    if isinstance(value, str):
        return f"inline constexpr const char* {name} = {json.dumps(value)};\n"
    if isinstance(value, tuple):
        items, kind = ", ".join(map(json.dumps, value)), "const char*" if isinstance(value[0], str) else "double"
        return f"inline constexpr std::array<{kind}, {len(value)}> {name} = {{{items}}};\n"
    return f"inline constexpr {'double' if isinstance(value, float) else 'int64_t'} {name} = {value};\n"


def files() -> tuple[tuple[Path, str], ...]:
    """Every file that is written, with its content."""
    folder = Path(__file__).parent
    return (
        (PACKAGE.parent / "plugins" / "contract.h", header()),
        (folder / "manifest.schema.json", json.dumps(manifest_schema(), indent=2) + "\n"),
        (folder / "sidecar.schema.json", json.dumps(sidecar_schema(), indent=2) + "\n"),
    )


def main() -> None:
    """Write the files of a source checkout."""
    for path, text in files():
        write_text(text, path)


if __name__ == "__main__":
    main()
