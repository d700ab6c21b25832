"""Compiled kernels: the cache of machine code, which new processes load without the compiler."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollforge.expressions import jit
from rollforge.expressions.jit import Kernel


def _twice(number):  # type: ignore[no-untyped-def]
    return number * 2


twice = Kernel(_twice)


def _doubled(values, out):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        for t in range(values.shape[1]):
            out[i, t] = twice(values[i, t])


def doubled(values: np.ndarray[Any, Any]) -> list[float]:
    """Return the values times two, by a kernel that this process has not loaded yet."""
    out = np.zeros(values.shape)
    Kernel(_doubled)(values, out)
    return out.ravel().tolist()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of compiled code."""
    monkeypatch.setattr(jit, "_FOLDER", tmp_path / "kernels")
    return tmp_path / "kernels"


NUMBERS = np.array([[1.0, np.nan], [-3.0, np.inf]])
TWICE = [2.0, np.nan, -6.0, np.inf]


def test_compiled_code_is_loaded_without_the_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a file for each set of types, which is all that a process needs to run the kernel."""
    np.testing.assert_equal(doubled(NUMBERS), TWICE)
    monkeypatch.setitem(sys.modules, "rollforge.expressions.compiler", None)  # importing it now fails
    np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert [file.suffix for file in cache.iterdir()] == [".o"]
    with pytest.raises(ImportError):
        doubled(NUMBERS.astype(np.float32))


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_a_damaged_file_is_compiled_again(cache: Path, keep: int) -> None:
    """Machine code is only loaded if it is the code that was stored."""
    doubled(NUMBERS)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:keep] + bytes([whole[keep] ^ 1]))
    np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert len(file.read_bytes()) > 100


def test_a_full_disk_does_not_stop_a_kernel(cache: Path) -> None:
    """The code is then compiled for this process."""
    cache.write_text("not a folder")
    np.testing.assert_equal(doubled(NUMBERS), TWICE)


def test_an_array_in_another_order_is_not_misread() -> None:
    """A kernel reads arrays by address, so it only takes those whose values follow each other."""
    with pytest.raises(ValueError, match="C order"):
        doubled(NUMBERS.T)
