"""Classes of a classifier: numbers in the data of a task, and what the user calls them.

Data hold numbers only. A class that is a number stands for itself; classes that are text are numbered by their position
in the list of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["are_text", "class_numbers", "fitted_labels"]


def are_text(classes: Sequence[object] | None) -> bool:
    """Return whether classes are text."""
    return bool(classes) and isinstance(classes[0], str)  # type: ignore[index]


def class_numbers(classes: Sequence[Any]) -> NDArray[np.float64]:
    """Return the number of each class in the data.

    Examples
    --------
    >>> class_numbers([-1, 0, 1]).tolist(), class_numbers(["down", "up"]).tolist()
    ([-1.0, 0.0, 1.0], [0.0, 1.0])
    """
    return np.arange(len(classes), dtype=np.float64) if are_text(classes) else np.asarray(classes, np.float64)


def fitted_labels(numbers: NDArray[Any], classes: Sequence[Any] | None) -> NDArray[Any]:
    """Return the labels on which a classifier is fitted: text for classes that are text, otherwise the numbers.

    Examples
    --------
    >>> fitted_labels(np.array([1.0, 0.0, 1.0]), ["down", "up"]).tolist()
    ['up', 'down', 'up']
    """
    if not are_text(classes):
        return numbers
    named: NDArray[Any] = np.array(classes, dtype=object)[numbers.astype(np.int64)]
    return named
