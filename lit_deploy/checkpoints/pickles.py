"""Pickles of other people's files, read without importing, calling or allocating anything that they name.

``torch.load(weights_only=True)`` runs nothing either, but it builds what a file asks for: ``bytearray(2**40)``, texts
encoded over and over, tuples nested until the stack is full, dicts whose methods are replaced. So every opcode is
looked at before anything is built, and the names in a file stand for our own inert types: tensors become
``StoredTensor``, and what people keep beside weights (paths, dates, NumPy numbers, configurations) becomes a value that
does nothing.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from lit_deploy.checkpoints.stored import MAX_NUMBER, Storage, StoredTensor, stored_tensor
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.text import shown_key

MAX_BYTES = 64 << 20
"""Of a pickle, which holds names and shapes, and no weights."""
MAX_STEPS = 1_000_000
"""Opcodes of a pickle; a network of a thousand tensors with its optimizer has a hundred thousand."""
MAX_DEPTH = 100
_MAX_LONG_INTEGERS = 1000  # integers beyond 64 bits can be chosen to collide in a dict, thousands of seeds cannot

_DAMAGED = "the file is truncated, damaged or no torch.save file; download or copy it again"
_SAVE_AGAIN = "save only the state_dict, on a machine that trusts the file"

# ------------------------------------------------------------------------------- what the names in a file stand for


class Inert:
    """Stands for an object that nobody needs: takes any arguments, items and state, and keeps none."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class Namespace(Inert):
    """``argparse.Namespace``: a training script's options."""

    __slots__ = ()


class UnusualTensor(Inert):
    """A sparse, quantised, subclassed or otherwise unusual tensor."""

    __slots__ = ()


class Items(dict[Any, Any]):
    """An ordered dict. It has no attributes, so those of a file cannot take the place of its methods."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        if arguments:  # Python 2 wrote items so; one list given to many dicts would grow with the square of the file
            raise CheckpointError(f"the file was pickled by Python 2 or is damaged; {_SAVE_AGAIN}")

    def __setstate__(self, state: Any) -> None:
        names = state if isinstance(state, Mapping) else ()
        shadowed = next((name for name in names if isinstance(name, str) and hasattr(OrderedDict, name)), None)
        if shadowed is not None:
            raise CheckpointError(
                f"the file gives a dict the attribute {shown_key(shadowed)}, which would take the place of its method; "
                f"{_SAVE_AGAIN}"
            )


class DefaultItems(Items):
    """``collections.defaultdict``, without its default."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        super().__init__()


class CfgNode(Items):
    """The configuration of an official training script (yacs)."""

    __slots__ = ()


class _Text(Inert):
    """Bytes, which pickles of protocol 2 hold as a text to be encoded. Kept as it is: encoding it would take memory."""

    __slots__ = ("text",)

    def __init__(self, text: Any = "", codec: Any = "") -> None:
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            shown = shown_key(codec[:40]) if isinstance(codec, str) else "other things than texts"
            raise CheckpointError(
                f"the file wants to call _codecs.encode with {shown}, which no checkpoint needs; {_SAVE_AGAIN}"
            )
        self.text = text


class _NumpyType(Inert):
    __slots__ = ("code",)

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code if isinstance(code, str) else ""


_NUMPY_NUMBERS = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "b1": "?",
}  # fmt: skip


def _numpy_scalar(kind: Any = None, data: Any = None, *_: Any) -> Any:
    """A NumPy number as a number of Python; other scalars are inert."""
    form = _NUMPY_NUMBERS.get(kind.code) if isinstance(kind, _NumpyType) else None
    if form is None or not isinstance(data, _Text) or len(data.text) != struct.calcsize("<" + form):
        return Inert()
    return struct.unpack("<" + form, data.text.encode("latin1"))[0]


class _Function:
    """A function of ours that a file may call; as it has no attributes, a file cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError(_DAMAGED)


class _StorageType(_Function):
    """A class of storages; ``dtype`` is torch's name of its numbers, None for quantised ones."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str | None) -> None:
        super().__init__(Inert)
        self.dtype = dtype


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor | UnusualTensor:
    if isinstance(storage, UnusualTensor):
        return storage
    if not isinstance(storage, Storage):
        raise CheckpointError(_DAMAGED)
    return stored_tensor(storage, offset, shape, strides)


def _parameter(value: Any, *_: Any) -> Any:
    return value if isinstance(value, StoredTensor) else UnusualTensor()


_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "QInt8": None, "QUInt8": None, "QInt32": None,
}  # fmt: skip

_GLOBALS: dict[str, Any] = {
    **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": _StorageType(None),
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Function(_parameter),
    "collections.OrderedDict": Items,
    "collections.defaultdict": DefaultItems,
    "yacs.config.CfgNode": CfgNode,
    "argparse.Namespace": Namespace,
    "_codecs.encode": _Text,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray.scalar": _Function(_numpy_scalar),
    "numpy._core.multiarray.scalar": _Function(_numpy_scalar),
}

_UNUSUAL = re.compile(
    r"torch\._utils\._rebuild_(tensor_v3|sparse_tensor|sparse_csr_tensor|nested_tensor|qtensor|meta_tensor_no_storage|"
    r"device_tensor_from_numpy|device_tensor_from_cpu_tensor|wrapper_subclass)|torch\._tensor\._rebuild_from_type_v2"
)
# What cannot do anything and is found beside weights. Calls of all these make an inert value.
_INERT = re.compile(
    r"builtins\.(set|frozenset|list|dict|tuple|int|float|str|bool|complex|bytes|object|slice|range)|collections\.Counter"
    r"|(pathlib|pathlib\._local)\.(Pure)?(Posix|Windows)?Path|datetime\.(datetime|date|time|timedelta|timezone)"
    r"|types\.SimpleNamespace|decimal\.Decimal|fractions\.Fraction|uuid\.UUID"
    r"|numpy\.(ndarray|bool_?|float16|float32|float64|u?int(8|16|32|64))|numpy\._?core\.multiarray\._reconstruct"
    r"|numpy\.dtypes\.\w+DType|torch\.(device|Size|strided|sparse_coo|b?float\d+|double|half|long|u?int\d+|bool)"
    r"|torch\.complex\d+|torch\.torch_version\.TorchVersion|torch\.serialization\._get_layout"
    r"|(addict\.addict|addict)\.Dict|easydict\.EasyDict|(mmcv\.utils\.config|mmengine\.config\.config)\.ConfigDict"
    r"|(lightning\.fabric\.utilities\.data|lightning_fabric\.utilities\.data|pytorch_lightning\.utilities\.parsing)"
    r"\.AttributeDict"
)


def _known(name: str) -> Any:
    """What stands for a global name of a file; None for names that are refused."""
    name = name.replace("__builtin__.", "builtins.", 1)  # protocol 2 writes the names of Python 2
    if name in _GLOBALS:
        return _GLOBALS[name]
    if _UNUSUAL.fullmatch(name):
        return UnusualTensor
    return Inert if _INERT.fullmatch(name) else None


# --------------------------------------------------------------------------------------- looking before building

# What torch.save writes: how many values an opcode takes, and the nesting of what it pushes. Protocol 2, which is its
# default, and of that only what Python's pickler uses.
_PUSHES = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), 0),
    **dict.fromkeys(("BINUNICODE", "GLOBAL"), 0),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"), 1),
}  # fmt: skip
_JOINS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "BINPERSID": 1}
_ADDS = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_MARK = -1


class _Scan:
    """Runs through a pickle with the nesting of every value in the value's place."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[int, int] = {}

    def take(self, count: int) -> list[int]:
        taken = self.stack[len(self.stack) - count :]
        if len(taken) != count or _MARK in taken:
            raise CheckpointError(_DAMAGED)
        del self.stack[len(self.stack) - count :]
        return taken

    def take_to_mark(self) -> list[int]:
        for count, value in enumerate(reversed(self.stack)):
            if value == _MARK:
                taken = self.take(count)
                self.stack.pop()
                return taken
        raise CheckpointError(_DAMAGED)

    def push(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise CheckpointError(
                f"the file nests values more than {MAX_DEPTH} deep, which no checkpoint does; {_SAVE_AGAIN}"
            )
        self.stack.append(depth)

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHES:
            self.push(_PUSHES[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            if argument > MAX_STEPS:  # the unpickler makes room for all places below
                raise CheckpointError(_DAMAGED)
            (self.memo[argument],) = self.take(1)
            self.stack.append(self.memo[argument])
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise CheckpointError(_DAMAGED)
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "TUPLE" or name in _JOINS:
            taken = self.take_to_mark() if name == "TUPLE" else self.take(_JOINS[name])
            self.push(1 + max(taken, default=0))
        elif name in ("APPENDS", "SETITEMS") or name in _ADDS:
            taken = self.take(_ADDS[name]) if name in _ADDS else self.take_to_mark()
            if name.startswith("SETITEM") and any(taken[::2]):
                raise CheckpointError(f"the file has a dict with keys that are no texts or numbers; {_SAVE_AGAIN}")
            (container,) = self.take(1)
            self.push(max(container, 1 + max(taken, default=0)))
        elif name not in ("PROTO", "STOP"):
            raise CheckpointError(
                f"the file is damaged, or pickled with another protocol than torch.save's default (2; it has the "
                f"opcode {name}), which cannot be read safely; save its state_dict again with torch.save"
            )


def _check(stream: io.BytesIO) -> None:
    """Look at every opcode from where ``stream`` stands, and leave it behind the pickle."""
    scan, long_integers = _Scan(), 0
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= MAX_STEPS:
            raise CheckpointError(
                f"the file's pickle has more than {MAX_STEPS} steps, expected those of a network of at most some "
                "20,000 tensors; save only the state_dict"
            )
        scan.step(opcode.name, argument)
        if opcode.name == "LONG1" and argument.bit_length() > 64:
            long_integers += 1
            if long_integers > _MAX_LONG_INTEGERS:
                raise CheckpointError(f"the file holds thousands of integers beyond 64 bits; {_SAVE_AGAIN}")
        elif opcode.name == "GLOBAL":
            name = ".".join(argument.split(" ", 1))
            if _known(name) is None:
                raise CheckpointError(
                    f"the file wants to call {shown_key(name)} while it is loaded, which is refused because it could "
                    f"run anything; {_SAVE_AGAIN}"
                )


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, storages: dict[str, Storage]) -> None:
        super().__init__(stream, fix_imports=False)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        found = _known(f"{module}.{name}")
        if found is None:  # the opcodes were looked at, so this cannot happen
            raise CheckpointError(_DAMAGED)
        return found

    def persistent_load(self, identity: Any) -> Storage | UnusualTensor:
        """Storages stand in a pickle as ``("storage", type, key, device, count)``; legacy files add a view."""
        kind, storage_type, key, _, count, *view = identity
        fits = kind == "storage" and isinstance(key, str) and isinstance(count, int) and 0 <= count < MAX_NUMBER
        if not fits or not isinstance(storage_type, _StorageType) or view not in ([], [None]):
            raise CheckpointError(_DAMAGED)
        if storage_type.dtype is None:
            return UnusualTensor()
        storage = Storage(key, storage_type.dtype, count)
        if self._storages.setdefault(key, storage) != storage:
            raise CheckpointError(_DAMAGED)
        return storage


def read_pickle(stream: io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """Read one pickle, and leave ``stream`` behind it.

    Args:
        stream: stands where the pickle begins.
        storages: takes the storages that its tensors view, by their keys.

    Returns:
        Numbers, texts, tuples, lists and dicts; ``StoredTensor`` for tensors; ``Inert`` for all else.

    Raises:
        CheckpointError: a pickle that is damaged, calls what no checkpoint needs, or is too long, deep or large.
    """
    start = stream.tell()
    try:
        _check(stream)
        end = stream.tell()
        stream.seek(start)
        content = _Unpickler(stream, {} if storages is None else storages).load()
        stream.seek(end)
        return content
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # damaged pickles make both readers raise anything
        raise CheckpointError(_DAMAGED) from error
