"""The sentence about an output that says nothing about an image."""

from __future__ import annotations

from lit_deploy.core.errors import ArtifactError


def unusable(image: str, fault: str) -> ArtifactError:
    """The error to raise.

    Args:
        image: name of the picture; ``fault``: what is wrong with the output, as "its scores are not finite".
    """
    return ArtifactError(
        f"the file gives no answer for {image}: {fault}; verify it against its checkpoint, and export it again"
    )
