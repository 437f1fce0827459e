"""``lit_deploy.native`` of release 0.1.0, as its documentation names it: where native libraries are found."""

from lit_deploy.machine.native import find_onnxruntime_library

__all__ = ["find_onnxruntime_library"]
