"""What models of Triton's python back end import, for tests: requests are dictionaries of arrays."""

from __future__ import annotations

from typing import Any


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class TritonError(str):
    INVALID_ARG, INTERNAL = 3, 1

    def __new__(cls, text: str, code: int) -> TritonError:
        return super().__new__(cls, f"{code}: {text}")


class InferenceResponse:
    def __init__(self, tensors: Any = (), error: Any = None) -> None:
        self.tensors, self.error = tensors, error


def get_input_tensor_by_name(request: dict[str, Any], name: str) -> Tensor:
    return Tensor(name, request[name])
