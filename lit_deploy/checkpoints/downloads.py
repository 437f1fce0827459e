"""Fetch checkpoints over https into a cache: whole files only, never a half one under the final name."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import os
import re
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lit_deploy.checkpoints.recognition import checkpoint_container
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.files import cache_dir
from lit_deploy.models.families import PUBLISHED

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the bytes expected (None when the server does not say)."""

_TIMEOUT_S = 30.0
_CHUNK = 1 << 18


def resolve_checkpoint(source: str | Path, progress: Progress | None = None) -> Path:
    """Turn a file path, an official name or an https URL into a local file, downloading it once when needed.

    Args:
        source: an existing path wins; else ``lit_ti``, ``lit_s``, ``lit_m``, ``lit_b``; else ``https://...``.
        progress: called while downloading; by default a line on stderr when that is a terminal.

    Returns:
        Path of a file that exists (a directory is returned as it is; loading it says what is wrong).

    Raises:
        CheckpointError: no such file or name, a URL that is not https, or a failed download.
    """
    text = str(source)
    with contextlib.suppress(OSError, ValueError):  # a name too long, or with a null byte, is no file
        if Path(text).is_file() or (Path(text).exists() and text not in PUBLISHED):
            return Path(text)
    if text in PUBLISHED:
        return _cached(PUBLISHED[text].url, f"{text}.pth", progress)
    if text.startswith("https://"):
        try:
            name = Path(urllib.parse.urlsplit(text).path).name
        except ValueError as error:
            raise CheckpointError(f"{text} is not a URL ({error}), expected https://host/path/file.pth") from None
        base = re.sub(r"[^\w.-]", "_", name)[-80:] or "checkpoint"
        # the same file name occurs at many addresses, so the address is part of the cached name
        return _cached(text, f"{hashlib.sha256(text.encode()).hexdigest()[:12]}-{base}", progress)
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


def _cached(url: str, name: str, progress: Progress | None) -> Path:
    target = cache_dir() / "checkpoints" / name
    if not target.is_file():
        download(url, target, progress)
    return target


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the allowed schemes only: https must not end at http."""

    def __init__(self, schemes: Collection[str]) -> None:
        self.schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, progress: Progress | None = None, schemes: Collection[str] = ("https",)) -> None:
    """Download ``url`` to ``target``: under a temporary name first, renamed when whole and a checkpoint by its bytes.

    Args:
        url: address of the file.
        target: final path; its folder is made.
        progress: called after every chunk.
        schemes: what the address and every redirect may begin with; only tests pass another.

    Raises:
        CheckpointError: anything went wrong; nothing is left under either name.
    """
    by_hand = "download it by hand and pass the file"
    if urllib.parse.urlsplit(url).scheme not in schemes:
        raise CheckpointError(f"{url} is not an https address; {by_hand}")
    report = progress or _terminal_progress(target.name)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial_name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        partial = Path(partial_name)
        opener = urllib.request.build_opener(_SameSchemes(schemes))
        request = urllib.request.Request(url, headers={"User-Agent": "lit-deploy"})
        with os.fdopen(handle, "wb") as file, opener.open(request, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
            expected = int(length) if length.isdecimal() else None
            received = 0
            while chunk := response.read(_CHUNK):
                received += len(chunk)
                file.write(chunk)
                report(received, expected)
        if expected is not None and received != expected:
            raise CheckpointError(f"the transfer of {url} broke after {received} of {expected} bytes; {by_hand}")
        try:
            checkpoint_container(partial)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(partial), f"what {url} sent")) from error
        partial.replace(target)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(f"cannot download {url} to {target.parent} ({reason}); {by_hand}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _terminal_progress(name: str) -> Progress:
    if not sys.stderr.isatty():
        return lambda received, expected: None

    def show(received: int, expected: int | None) -> None:
        total = f" of {expected / 1e6:.1f}" if expected else ""
        end = "\n" if received == expected else ""
        sys.stderr.write(f"\r{name}: {received / 1e6:.1f}{total} MB{end}")
        sys.stderr.flush()

    return show
