"""An array to which rows are added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Grown:
    """Rows of numbers in one array, to which more are added.

    Args:
        kind: The type of the numbers.
        width: Numbers in a row; 0 for plain numbers.
    """

    def __init__(self, kind: Any, width: int = 0) -> None:
        self._array: NDArray[Any] = np.empty((1024, width) if width else 1024, kind)
        self._size = 0

    def add(self, rows: NDArray[Any]) -> None:
        """Appends rows; the array doubles when it is full."""
        if self._size + len(rows) > len(self._array):
            bigger = np.empty((2 * (self._size + len(rows)), *self._array.shape[1:]), self._array.dtype)
            bigger[: self._size] = self.rows()
            self._array = bigger
        self._array[self._size : self._size + len(rows)] = rows
        self._size += len(rows)

    def rows(self) -> NDArray[Any]:
        """All rows, without a copy."""
        return self._array[: self._size]
