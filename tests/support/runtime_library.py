"""``lit_runtime.h`` in ctypes, for the tests of the C API.

The library is ``build/native/liblit_deploy_runtime.so``; the environment variable ``LIT_DEPLOY_RUNTIME`` names another
one, a sanitizer build for instance.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_uint8, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lit_deploy.core.specs import InputSpec
from lit_deploy.machine.native import RUNTIME_BUILD_COMMAND, runtime_path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(os.environ.get("LIT_DEPLOY_RUNTIME") or runtime_path())

needs_runtime = pytest.mark.skipif(not LIBRARY.is_file(), reason=f"{LIBRARY} is not built: {RUNTIME_BUILD_COMMAND}")

STATUSES = (
    "LIT_OK", "LIT_INVALID_ARGUMENT", "LIT_FILE_ERROR", "LIT_BAD_MODEL", "LIT_NOT_SUPPORTED", "LIT_LIBRARY_NOT_FOUND",
    "LIT_WRONG_VERSION", "LIT_NO_DEVICE", "LIT_OUT_OF_MEMORY", "LIT_RUN_FAILED", "LIT_INTERNAL_ERROR",
)  # fmt: skip
"""Names of ``lit_status``, by value."""

BACKENDS = ("auto", "onnxruntime", "openvino", "tensorrt")
"""``lit_backend`` by value."""

TYPES = ("uint8", "float")
"""``lit_type`` by value, in the words of ``InputSpec.kind``."""

INTERPOLATIONS = ("bicubic", "bilinear")
"""``lit_interpolation`` by value."""


class Options(ctypes.Structure):
    """``lit_options``."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("device", c_int),
        ("device_index", c_int32),
        ("threads", c_int32),
        ("backend_library", c_char_p),
        ("operator_library", c_char_p),
        ("allow_engine_code", c_int32),
        ("cuda_graph", c_int32),
        ("backend", c_int32),
        ("precision_hint", c_char_p),
    )


class Input(ctypes.Structure):
    """``lit_input_spec``."""

    _fields_ = (
        ("type", c_int),
        ("height", c_int32),
        ("width", c_int32),
        ("resize", c_int32),
        ("interpolation", c_int),
        ("mean", c_float * 3),
        ("std", c_float * 3),
    )


class ModelInfo(ctypes.Structure):
    """``lit_model_info``."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("task", c_char_p),
        ("name", c_char_p),
        ("precision", c_char_p),
        ("backend", c_char_p),
        ("manifest", c_char_p),
        ("input", Input),
        ("output", c_int),
        ("num_classes", c_int32),
        ("min_batch", c_int32),
        ("max_batch", c_int32),
        ("longest", c_int32),
        ("max_detections", c_int32),
        ("score_threshold", c_float),
        ("mask_size", c_int32),
    )


class Category(ctypes.Structure):
    """``lit_category``."""

    _fields_ = (("label", c_char_p), ("id", c_int64), ("colour", c_uint8 * 3))


class Picture(ctypes.Structure):
    """``lit_image``; ``pixels`` is an address."""

    _fields_ = (("pixels", c_void_p), ("width", c_int32), ("height", c_int32), ("row_stride", c_ssize_t))


class Tensor(ctypes.Structure):
    """``lit_tensor``; ``data`` is an address."""

    _fields_ = (
        ("type", c_int),
        ("data", c_void_p),
        ("batch", c_int64),
        ("row_stride", c_ssize_t),
        ("image_stride", c_ssize_t),
    )


class Output(ctypes.Structure):
    """``lit_output``."""

    _fields_ = (("scores", POINTER(c_float)), ("classes", POINTER(c_int64)), ("batch", c_int64), ("count", c_int64))


class Prediction(ctypes.Structure):
    """``lit_prediction``."""

    _fields_ = (("class_index", c_int64), ("probability", c_float), ("label", c_char_p))


class Detections(ctypes.Structure):
    """``lit_detections``."""

    _fields_ = (
        ("boxes", POINTER(c_float)),
        ("scores", POINTER(c_float)),
        ("labels", POINTER(c_int32)),
        ("count", c_int64),
        ("width", c_int32),
        ("height", c_int32),
    )


class Prepared(ctypes.Structure):
    """``lit_prepared``; ``pixels`` is an address."""

    _fields_ = (
        ("pixels", c_void_p),
        ("width", c_int32),
        ("height", c_int32),
        ("original_width", c_int32),
        ("original_height", c_int32),
    )


class Mask(ctypes.Structure):
    """``lit_mask``."""

    _fields_ = (
        ("pixels", POINTER(c_uint8)),
        ("left", c_int32),
        ("top", c_int32),
        ("width", c_int32),
        ("height", c_int32),
        ("area", c_int64),
    )


class Rle(ctypes.Structure):
    """``lit_rle``."""

    _fields_ = (("counts", c_char_p), ("width", c_int32), ("height", c_int32), ("area", c_int64))


class LabelMap(ctypes.Structure):
    """``lit_label_map``."""

    _fields_ = (("labels", POINTER(c_uint8)), ("width", c_int32), ("height", c_int32))


# Models and contexts are opaque: addresses. Result first, then the arguments.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "lit_abi_version": (c_int32,),
    "lit_version": (c_char_p,),
    "lit_status_name": (c_char_p, c_int),
    "lit_last_error": (c_char_p,),
    "lit_options_init": (c_int, POINTER(Options), c_size_t),
    "lit_model_open": (c_int, c_char_p, POINTER(Options), POINTER(c_void_p)),
    "lit_model_close": (None, c_void_p),
    "lit_model_get_info": (POINTER(ModelInfo), c_void_p),
    "lit_model_label": (c_char_p, c_void_p, c_int64),
    "lit_model_category": (c_int, c_void_p, c_int64, POINTER(Category)),
    "lit_check_size": (c_int, POINTER(Input), c_int32, c_int32),
    "lit_preprocess": (c_int, POINTER(Input), POINTER(Picture), c_void_p),
    "lit_prepared_size": (c_int, c_void_p, c_int32, c_int32, POINTER(c_int32), POINTER(c_int32)),
    "lit_prepare": (c_int, c_void_p, POINTER(Picture), c_void_p),
    "lit_context_create": (c_int, c_void_p, POINTER(c_void_p)),
    "lit_context_destroy": (None, c_void_p),
    "lit_context_warning": (c_char_p, c_void_p),
    "lit_run": (c_int, c_void_p, POINTER(Tensor), POINTER(Output)),
    "lit_run_images": (c_int, c_void_p, POINTER(Picture), c_size_t, POINTER(Output)),
    "lit_detect": (c_int, c_void_p, POINTER(Picture), POINTER(Detections)),
    "lit_detect_prepared": (c_int, c_void_p, POINTER(Prepared), POINTER(Detections)),
    "lit_paste_mask": (c_int, c_void_p, c_int64, POINTER(Mask)),
    "lit_encode_mask": (c_int, c_void_p, c_int64, POINTER(Rle)),
    "lit_encode_label": (c_int, c_void_p, c_int64, POINTER(Rle)),
    "lit_segment": (c_int, c_void_p, POINTER(Picture), POINTER(LabelMap)),
    "lit_segment_prepared": (c_int, c_void_p, POINTER(Prepared), POINTER(LabelMap)),
    "lit_top_k": (
        c_int, c_void_p, POINTER(Output), c_int64, c_size_t, POINTER(Prediction), POINTER(c_size_t)
    ),
}  # fmt: skip


@functools.cache
def runtime() -> ctypes.CDLL:
    """The library, loaded once, with every function of ``lit_runtime.h`` declared."""
    library = ctypes.CDLL(str(LIBRARY))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Failure(Exception):
    """A call that did not return ``LIT_OK``: ``status`` is the name, the text is ``lit_last_error()``."""

    def __init__(self, status: int) -> None:
        super().__init__(runtime().lit_last_error().decode())
        self.status = STATUSES[status]


def check(status: int) -> None:
    """Raise ``Failure`` for anything but ``LIT_OK``."""
    if status != 0:
        raise Failure(status)


def input_of(spec: InputSpec) -> Input:
    """The C form of an input description."""
    return Input(
        TYPES.index(spec.kind),
        spec.height,
        spec.width,
        spec.resize,
        INTERPOLATIONS.index(spec.interpolation),
        (c_float * 3)(*spec.mean),
        (c_float * 3)(*spec.std),
    )


def picture_of(pixels: NDArray[np.uint8]) -> Picture:
    """The C form of uint8 ``[height, width, 3]`` with dense pixels and any row stride; ``pixels`` has to stay alive."""
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (pixels.shape[1], 3)
    assert pixels.shape[1] == 1 or pixels.strides[1:] == (3, 1)
    return Picture(pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0])
