"""Files that are no exported file."""

from __future__ import annotations

from pathlib import Path

import onnx

from support.exported import edited


def bad_files(folder: Path, good: Path) -> dict[str, Path]:
    """Files that are no exported file, by what is wrong with them."""
    content = good.read_bytes()
    written = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "header only": content[:40],
        "text": b"this is not a model\n" * 20,
        "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "zip": b"PK\x03\x04" + bytes(64),
        "zeros": bytes(4096),
    }
    for name, value in written.items():
        folder.joinpath(f"{name}.onnx").write_bytes(value)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    foreign = onnx.helper.make_model(onnx.helper.make_graph([node], "foreign", info[:1], info[1:]))
    onnx.save(foreign, str(folder / "foreign.onnx"))
    edited(good, folder / "no nodes.onnx", lambda model: model.graph.ClearField("node"))
    folder.joinpath("directory.onnx").mkdir()
    names = [*written, "foreign", "no nodes", "directory", "missing"]
    return {name: folder / f"{name}.onnx" for name in names}
