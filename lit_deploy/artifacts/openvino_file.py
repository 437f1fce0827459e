"""An exported OpenVINO IR: a graph in ``.xml``, its weights in ``.bin`` beside it, the manifest in the graph's rt_info.

OpenVINO itself is needed to write one (``exporters/openvino.py``); what one says about itself is read without it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import msgspec

from lit_deploy.artifacts.manifest import Manifest, check_json
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.files import why_unreadable

IR_SUFFIX, WEIGHTS_SUFFIX = ".xml", ".bin"

RT_INFO = ("lit_deploy", "manifest")
"""Path in the model's rt_info at which the manifest stands, as JSON. Beside it stands ``extension``."""

_ENTRY = re.compile(r'<manifest value="[^"]*"\s*/>(?:\s*<extension value="[^"]*"\s*/>)?')


@dataclass(frozen=True)
class Extension:
    """The library of our operators that a network needs.

    Attributes:
        library: file name; ``sha256``: of the one that was there when the IR was written.
    """

    library: str
    sha256: str


def weights_path(path: Path) -> Path:
    """Where the weights of an IR lie."""
    return path.with_suffix(WEIGHTS_SUFFIX)


def read_ir(path: Path) -> tuple[Manifest, Extension | None]:
    """Read what an IR says about itself, and which extension it was written with; None where it needs none.

    Raises:
        ArtifactError: it is missing, damaged, or not from lit-deploy.
    """
    for part in (path, weights_path(path)):
        if not part.is_file():
            raise ArtifactError(
                f"{part} is not a file; expected the .xml and .bin that `lit-deploy export --format openvino` wrote"
            )
        if reason := why_unreadable(part):
            raise ArtifactError(f"{part} cannot be read ({reason}); give read permission, or another file")
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, UnicodeError, ValueError):
        raise ArtifactError(
            f"{path} is not a whole OpenVINO IR (truncated or another format); export it again"
        ) from None
    folder, name = RT_INFO
    found = {entry.tag: entry.attrib.get("value", "") for entry in root.findall(f"rt_info/{folder}/*")}
    if not found.get(name):
        raise ArtifactError(f"{path} holds no lit-deploy manifest; expected a file written by `lit-deploy export`")
    try:
        extension = None
        if found.get("extension"):
            check_json(found["extension"])
            extension = msgspec.json.decode(found["extension"], type=Extension)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ArtifactError(f"what {path} says about its extension is damaged ({error}); export it again") from None
    return Manifest.from_json(found[name]), extension


def seal_ir(path: Path, manifest: Manifest, extension: Extension | None) -> None:
    """Write into an IR what is known about it; everything else in the file stays as it is."""
    told = f"<manifest value={_quoted(manifest.to_json())} />"
    if extension is not None:
        told += f"\n\t\t\t<extension value={_quoted(msgspec.json.encode(extension).decode())} />"
    text = path.read_text(encoding="utf-8")
    head, tail = text[: (start := text.rindex("<rt_info>"))], text[start:]
    tail, places = _ENTRY.subn(lambda _: told, tail)
    assert places == 1, "the exporter leaves a place for it"
    path.write_text(head + tail, encoding="utf-8")


def _quoted(text: str) -> str:
    return quoteattr(text, {'"': "&quot;"})
