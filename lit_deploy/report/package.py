"""What a package is and how it is started, for the terminal."""

from __future__ import annotations

from lit_deploy.core.text import printable
from lit_deploy.packaging.package import TritonPackage


def package_summary(package: TritonPackage) -> str:
    """Plain text, so that the command can be copied as it is."""
    batch = f"up to {package.max_batch}" if package.max_batch else "one request at a time"
    lines = [
        f"wrote    {package.model} into {package.repository} (models: {', '.join(package.models)})",
        f"batch    {batch}",
        f"library  {package.library or 'none'}",
        f"start    {package.command}",
        f"more     {package.start}",
        *(f"note     {note}" for note in package.notes),
    ]
    return "\n".join(map(printable, lines))
