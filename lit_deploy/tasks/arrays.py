"""What sessions take and return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]
"""Inputs or outputs of a session by name."""

Outputs = Mapping[str, NDArray[Any]]
"""Outputs that are only read."""

Pair = tuple[Outputs, Outputs]
"""Outputs of the reference and of a tested file, for the same batch."""
