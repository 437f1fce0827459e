"""What a run of ``score`` did, in a line."""

from __future__ import annotations

from lit_deploy.score.run import Summary


def score_text(summary: Summary) -> str:
    """What was written, and how fast; or that all was there."""
    held = f"{summary.pictures:,} images in {summary.shards:,} files"
    left_out = f"\nleft out of the sources: {summary.left_out}" if summary.left_out else ""
    if summary.resumed == summary.pictures:
        return f"{summary.out} is complete: {held}; nothing was left to do{left_out}"
    resumed = f", {summary.resumed:,} of them by an earlier run" if summary.resumed else ""
    speed = f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} images/s"
    return f"wrote {summary.out}: {held}{resumed}; {speed}{left_out}"
