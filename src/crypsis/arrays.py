"""Types of arrays that statistics, monitors and metrics share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
States = NDArray[np.float32]
"""Hidden states, and weights that are applied to them."""
