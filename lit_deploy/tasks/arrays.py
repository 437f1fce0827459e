"""What sessions take and return."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]
"""Inputs or outputs of a session by name."""
