"""Every error that lit-deploy raises on purpose.

::

    LitDeployError                  base class; str(error) is one sentence for the user, exit code 2
    ├── UsageError                  an argument or option that cannot be used
    ├── CheckpointError             a checkpoint that cannot be read or is not a LIT checkpoint
    │   └── StateDictMismatch       right network, wrong keys or shapes (carries the full listing)
    ├── ArtifactError               an exported file that is damaged, foreign or from another version
    ├── ImageError                  an image that cannot be decoded or is too large
    ├── MissingDependency           a package, library or device that is not installed here
    ├── OutOfMemory                 the memory of the machine, or what a limit leaves of it, does not suffice
    ├── ExportError                 the exporter could not produce what was asked for
    │   └── BuildFailed             the engine builder refused or died (carries its last log lines)
    ├── ImagesLeftOut               some images could not be used, all others were, exit code 1
    └── GateFailed                  parity, accuracy or speed below its gate, exit code 1
        └── ParityFailed            the exported file departs from PyTorch (workflows/verify.py: carries the report)

Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import errno


class LitDeployError(Exception):
    """Base of all errors a user can cause and mend; ``str(error)`` is one clear sentence."""

    exit_code = 2
    detailed = False
    """Whether it carries more than its sentence, which the command line prints below it."""


class LitDeployWarning(UserWarning):
    """What a user should know of something that is taken all the same, in one sentence."""


class UsageError(LitDeployError):
    """An argument or option that cannot be used as given."""


class CheckpointError(LitDeployError):
    """A checkpoint that cannot be read safely, or that holds another network."""


class StateDictMismatch(CheckpointError):
    """Keys or shapes that differ from the network's.

    Attributes:
        missing: keys the network needs and the file lacks.
        unexpected: keys the file has and the network lacks.
        misshapen: ``(key, shape in the file, shape expected)`` triples.
    """

    detailed = True

    def __init__(
        self,
        message: str,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (),
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.unexpected = unexpected
        self.misshapen = misshapen


class ArtifactError(LitDeployError):
    """An exported file that is damaged, foreign, or written by an incompatible version."""


class ImageError(LitDeployError):
    """An image file that cannot be decoded, or is unreasonably large."""


class MissingDependency(LitDeployError):
    """A package, library or device that this machine lacks; the message names the remedy."""


class OutOfMemory(LitDeployError):
    """The memory of this machine, or what a limit leaves of it, does not suffice. Never the fault of a file."""


_MEMORY_WORDS = (
    "bad_alloc", "bad allocation", "out of memory", "allocate memory", "unable to allocate", "not enough memory",
)  # fmt: skip
"""How NumPy, Pillow, PyTorch, ONNX Runtime and OpenVINO say that there is no memory left, in small letters."""


def refuse_for_memory(error: BaseException) -> None:
    """Raise OutOfMemory when that is what somebody else's error says: the first line of whatever catches broadly."""
    for link in filter(None, (error, error.__cause__)):
        said = " ".join(str(link).split())
        short = isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno == errno.ENOMEM)
        if not short and not any(words in said.lower() for words in _MEMORY_WORDS):
            continue
        told = f" ({said[:200]})" if said else ""
        raise OutOfMemory(
            f"there is not enough memory{told}; free some, raise the limit of this process, or take less at once "
            "(a smaller batch, fewer threads or workers)"
        ) from error


class ExportError(LitDeployError):
    """The exporter could not produce the requested file."""


class BuildFailed(ExportError):
    """TensorRT's builder refused, or its process died.

    Attributes:
        log: the last lines that the builder wrote.
    """

    detailed = True

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class ImagesLeftOut(LitDeployError):
    """Some of many images could not be used; all that was asked was done with the others."""

    exit_code = 1


class GateFailed(LitDeployError):
    """A gate of parity, accuracy or speed was not met."""

    exit_code = 1
