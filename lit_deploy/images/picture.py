"""One picture on its way into a network of any input size, and what must be known about it on the way out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """A decoded, resized picture.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, RGB, as the network takes it.
        original_size: height and width in pixels before resizing; of detectors and segmentation, turned as EXIF says.
        orientation: EXIF's, 1 to 8, of a file that was decoded; 1 is upright.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]
    orientation: int = 1
