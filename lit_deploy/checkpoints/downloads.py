"""Fetch checkpoints over https into a cache: whole files only, never a half one under the final name."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

from lit_deploy.checkpoints.recognition import container_of
from lit_deploy.core.errors import CheckpointError, UsageError
from lit_deploy.core.files import atomic_path, cache_dir, check_regular_file, sha256_of
from lit_deploy.models.families import PUBLISHED
from lit_deploy.models.layout import parameter_count

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the bytes expected (None when the server does not say)."""

MAX_BYTES = 4 << 30
"""Of a download from an address: LIT-B with a detector's head and its optimizer's state has a third of that."""

_TIMEOUT_S = 30.0
_CHUNK = 1 << 18
_HEAD = 512
_COPIES, _ROOM = 4, 64 << 20  # weights, two moments of an optimizer, averaged weights; and what stands beside them


def split_key(source: str | Path) -> tuple[str | Path, str | None]:
    """``FILE#KEY`` as the file, name or address and the key of a network in it; the whole where a file is called so."""
    text = str(source)
    place, mark, key = text.rpartition("#")
    with contextlib.suppress(OSError, ValueError):  # a name too long, or with a null byte, is no file
        if not mark or not place or not key or Path(text).exists():
            return source, None
    return place, key


def resolve_checkpoint(source: str | Path, progress: Progress | None = None, sha256: str | None = None) -> Path:
    """Turn a file path, an official name or an https URL into a local file, downloading it once when needed.

    Args:
        source: an existing path wins; else ``lit_ti``, ``lit_s``, ``lit_m``, ``lit_b``; else ``https://...``.
        progress: called while downloading; by default a line on stderr when that is a terminal.
        sha256: what the file's SHA-256 has to be, hexadecimal; a download of another never gets into the cache.

    Returns:
        Path of a file that exists (a directory is returned as it is; loading it says what is wrong).

    Raises:
        UsageError: ``sha256`` is none. CheckpointError: no such file or name, a URL that is not https, a failed
            download, or a file with another SHA-256.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"the SHA-256 is '{sha256}', expected 64 hexadecimal digits, as sha256sum prints them")
    text = str(source)
    with contextlib.suppress(OSError, ValueError):
        if Path(text).is_file() or (Path(text).exists() and text not in PUBLISHED):
            return _with_sha256(Path(text), sha256)
    if text in PUBLISHED:
        weights = 4 * parameter_count(PUBLISHED[text].spec)
        return _cached(PUBLISHED[text].url, f"{text}.pth", progress, _COPIES * weights + _ROOM, sha256)
    if text.startswith("https://"):
        try:
            name = Path(urllib.parse.urlsplit(text).path).name
        except ValueError as error:
            raise CheckpointError(f"{text} is not a URL ({error}), expected https://host/path/file.pth") from None
        base = re.sub(r"[^\w.-]", "_", name)[-80:] or "checkpoint"
        # the same file name occurs at many addresses, so the address is part of the cached name
        cached = f"{hashlib.sha256(text.encode()).hexdigest()[:12]}-{base}"
        return _cached(text, cached, progress, MAX_BYTES, sha256)
    scheme = re.match(r"[a-zA-Z][\w+.-]*://", text)
    if scheme:
        raise CheckpointError(
            f"{text} begins with {scheme[0]}, expected https://; download it by hand and pass the file"
        )
    near = difflib.get_close_matches(text, PUBLISHED, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise CheckpointError(
        f"there is no file {text}{hint}, expected a checkpoint file, one of {', '.join(PUBLISHED)}, or an https URL"
    )


def _with_sha256(path: Path, sha256: str | None) -> Path:
    if sha256 is not None:
        check_regular_file(path, "a checkpoint file", CheckpointError)
        _check_sha256(path, str(path), sha256)
    return path


def _check_sha256(path: Path, what: str, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256.lower():
        raise CheckpointError(
            f"{what} has the SHA-256 {found}, expected {sha256.lower()}; it is not the file you meant"
        )


def _cached(url: str, name: str, progress: Progress | None, limit: int, sha256: str | None) -> Path:
    target = cache_dir() / "checkpoints" / name
    if target.is_file():
        return _with_sha256(target, sha256)
    download(url, target, progress, limit=limit, sha256=sha256)
    return target


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the allowed schemes only: https must not end at http."""

    def __init__(self, schemes: Collection[str]) -> None:
        self.schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    target: Path,
    progress: Progress | None = None,
    schemes: Collection[str] = ("https",),
    limit: int = MAX_BYTES,
    sha256: str | None = None,
) -> None:
    """Download ``url`` to ``target``: under a temporary name first, renamed when whole and a checkpoint by its bytes.

    Args:
        url: address of the file.
        target: final path; its folder is made.
        progress: called after every chunk.
        schemes: what the address and every redirect may begin with; only tests pass another.
        limit: most bytes that are taken.
        sha256: what the file's SHA-256 has to be, hexadecimal; None for any.

    Raises:
        CheckpointError: anything went wrong; nothing is left under either name.
    """
    by_hand = "download it by hand and pass the file"
    if urllib.parse.urlsplit(url).scheme not in schemes:
        raise CheckpointError(f"{url} is not an https address; {by_hand}")
    report = progress or _terminal_progress(target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        opener = urllib.request.build_opener(_SameSchemes(schemes))
        request = urllib.request.Request(url, headers={"User-Agent": "lit-deploy"})
        with atomic_path(target) as partial:
            with partial.open("wb") as file, opener.open(request, timeout=_TIMEOUT_S) as response:
                _receive(response, file, url, limit, report)
            if sha256 is not None:
                _check_sha256(partial, f"what {url} sent", sha256)
    except UsageError as error:
        raise CheckpointError(f"cannot download {url}: {error}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(f"cannot download {url} to {target.parent} ({reason}); {by_hand}") from error


def _receive(response: Any, file: BinaryIO, url: str, limit: int, report: Progress) -> None:
    """Write what a server sends; its first bytes tell whether that is a checkpoint, before the rest is fetched."""
    length = response.headers.get("Content-Length", "")
    expected = int(length) if length.isdecimal() and len(length) < 20 else None
    received = 0
    head = b""
    while chunk := response.read(_CHUNK):
        received += len(chunk)
        if max(received, expected or 0) > limit:
            raise CheckpointError(
                f"{url} sends {expected or 'more than ' + str(limit)} bytes, expected at most {limit} of this network "
                "with its optimizer; download it by hand if it is the right file"
            )
        if len(head) < _HEAD:
            head += chunk[:_HEAD]
            if len(head) >= _HEAD or received == expected:
                _check_head(head, url, expected)
        file.write(chunk)
        report(received, expected)
    if expected is not None and received != expected:
        raise CheckpointError(
            f"the transfer of {url} broke after {received} of {expected} bytes; download it by hand and pass the file"
        )
    _check_head(head, url, received)


def _check_head(head: bytes, url: str, size: int | None) -> None:
    if container_of(head[:_HEAD], f"what {url} sent", size) == "sharded safetensors":
        raise CheckpointError(
            f"what {url} sent is the index of several files; download all of them by hand and pass the index"
        )


def _terminal_progress(name: str) -> Progress:
    if not sys.stderr.isatty():
        return lambda received, expected: None

    def show(received: int, expected: int | None) -> None:
        total = f" of {expected / 1e6:.1f}" if expected else ""
        end = "\n" if received == expected else ""
        sys.stderr.write(f"\r{name}: {received / 1e6:.1f}{total} MB{end}")
        sys.stderr.flush()

    return show
