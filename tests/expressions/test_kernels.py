"""Compiled kernels: the cache of machine code, which new processes load without the compiler."""

from __future__ import annotations

import concurrent.futures
import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from rollforge.expressions import compiler, jit, machine_code, precompile
from rollforge.expressions.evaluator import EvaluationPlan
from rollforge.expressions.jit import Kernel
from rollforge.session import available_cores


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


@pytest.mark.parametrize("how", ["missing", "failing"])
def test_a_numba_with_other_inner_parts_compiles_kernels_by_itself(
    how: str, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The passes that are left out are no part of numba's interface, and may change in any version of it."""
    if how == "missing":
        monkeypatch.setitem(sys.modules, "rollforge.expressions.kernel_passes", None)
    else:
        from rollforge.expressions import kernel_passes

        def changed(*_: object) -> None:
            raise AttributeError("no such part")

        monkeypatch.setattr(kernel_passes._Lowering, "run_pass", changed)
    with caplog.at_level("INFO", logger="rollforge.expressions.compiler"):
        np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert f"all passes of numba {numba.__version__}" in caplog.text


def test_the_known_numba_compiles_kernels_with_few_passes(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="rollforge.expressions.compiler"):
        np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert "all passes" not in caplog.text


def test_compiled_code_is_loaded_without_the_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is in a file for each set of types, which is all that a process needs to run the kernel."""
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


def test_machines_with_other_processors_do_not_share_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a home folder of several machines, each loads only what was compiled for its own processor."""
    system, model, features = machine_code.processor()
    doubled(NUMBERS)
    (own,) = cache.iterdir()
    for other in ((system, model, features + ",-avx512f"), (system, "skylake", features)):
        monkeypatch.setattr(jit, "processor", lambda other=other: other)
        np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert len(set(cache.iterdir())) == 3
    own.write_bytes(b"")
    np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert own.read_bytes() == b""


def test_kernels_of_one_name_do_not_share_code(cache: Path) -> None:
    """Kernels of one name share no code, even if a kernel that they call is another one, or what the compiler may
    change."""
    doubled(NUMBERS)
    names = []
    for factor in (3, 4):

        def _doubled(values, out, factor=factor):  # type: ignore[no-untyped-def]
            for i in range(values.shape[0]):
                for t in range(values.shape[1]):
                    out[i, t] = values[i, t] * factor

        out = np.zeros(NUMBERS.shape)
        Kernel(_doubled)(NUMBERS, out, factor)
        np.testing.assert_equal(out, NUMBERS * factor)
        names.append(len(list(cache.iterdir())))
    assert names == [2, 2]
    Kernel(_doubled, frozenset({"reassoc"}))(NUMBERS, out, 5)
    assert len(list(cache.iterdir())) == 3


def test_kernels_are_compiled_although_numba_is_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NUMBA_DISABLE_JIT is meant for the user's own functions, and stays as it is."""
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    np.testing.assert_equal(doubled(NUMBERS), TWICE)
    assert numba.config.DISABLE_JIT == 1


def test_code_from_a_folder_that_others_can_write_to_is_not_run(tmp_path: Path) -> None:
    """The folder becomes private and loses its files, since others may have put them there. A link is refused."""
    folder = tmp_path / "kernels"
    (folder / "inside").mkdir(parents=True)
    folder.chmod(0o700)
    for file in (folder / "a.o", folder / "inside" / "b.o"):
        file.write_bytes(b"code")
    assert jit._is_private(folder)
    assert (folder / "a.o").exists()
    folder.chmod(0o770)
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert jit._is_private(folder)
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "elsewhere").is_dir()
    (tmp_path / "another").symlink_to(folder)
    assert not jit._is_private(tmp_path / "another")


def test_a_kernel_that_another_process_compiles_is_awaited(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is loaded when it is there. A process that was stopped meanwhile is not awaited for long."""
    np.testing.assert_equal(doubled(NUMBERS), TWICE)
    (file,) = cache.iterdir()
    code = file.read_bytes()
    file.unlink()
    lock = file.with_name(f"{file.name}.lock")
    compiled = compiler.compiled
    monkeypatch.setattr(compiler, "compiled", None)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        timer = threading.Timer(0.2, lambda: (file.write_bytes(code), fcntl.flock(other, fcntl.LOCK_UN)))
        timer.start()
        np.testing.assert_equal(doubled(NUMBERS), TWICE)
        timer.join()
    assert [file.suffix for file in cache.iterdir()] == [".o"]
    file.unlink()
    monkeypatch.setattr(compiler, "compiled", compiled)
    monkeypatch.setattr(jit, "_PATIENCE", 0.1)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        np.testing.assert_equal(doubled(NUMBERS), TWICE)


def test_a_process_that_was_stopped_while_it_compiles_is_not_awaited(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that was forked while another one compiled, which has the file of the lock open."""
    waits, opened = jit._await, list[int]()

    def kept_open(handle: Any, seconds: float) -> bool:
        opened.append(os.dup(handle.fileno()))  # as a fork of the process does
        return waits(handle, seconds)

    monkeypatch.setattr(jit, "_LONG_PATIENCE", 0.1)
    monkeypatch.setattr(jit, "_await", kept_open)
    cache.mkdir()
    with (cache / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with jit.one_at_a_time():
            pass
        fcntl.flock(other, fcntl.LOCK_UN)
        with jit.one_at_a_time(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for descriptor in opened:
        os.close(descriptor)


def test_processes_compile_side_by_side_what_another_could_not_write(cache: Path) -> None:
    """The disk may be full: the code is not there when the lock becomes free, and nobody waits for a second one."""
    cache.mkdir()
    lock, waiting, compiling = cache / "full.o.lock", threading.Barrier(4), threading.Barrier(3)

    def compile_it() -> None:
        waiting.wait(60)
        with jit._alone(cache / "full.o"):
            compiling.wait(60)  # broken if they compile one after another

    with lock.open("w") as other, concurrent.futures.ThreadPoolExecutor(3) as threads:
        fcntl.flock(other, fcntl.LOCK_EX)
        processes = [threads.submit(compile_it) for _ in range(3)]
        waiting.wait(60)
        time.sleep(0.1)
        fcntl.flock(other, fcntl.LOCK_UN)
        for one in processes:
            one.result(10)
    assert not list(cache.iterdir())


SIX_OPERATORS = ["Ref($x, 1)/$x - 1", "Mean($x, 5) + Abs($x)*2", "Mine($x)"]


def test_a_second_process_compiles_the_kernels_of_the_first(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On first use only, and for several operators; the process ends with the computation that it helps."""
    cache.mkdir()
    caplog.set_level("INFO", logger="rollforge.expressions.precompile")
    for expressions, begins in ((["Mean($x, 5)"], False), (SIX_OPERATORS[:2], True), (SIX_OPERATORS[:2], False)):
        caplog.clear()
        with precompile.compile_in_background(expressions):
            pass
        assert bool(caplog.messages) == (begins and available_cores() > 1)
    assert [file.name.partition("-")[0] for file in cache.iterdir()] == ["compiled"] * (available_cores() > 1)


def test_the_second_process_leaves_out_what_it_cannot_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Operators of the first process are unknown to it; the other expressions are computed."""
    computed = []
    run = EvaluationPlan.run
    monkeypatch.setattr(
        EvaluationPlan, "run", lambda self, *rest: computed.extend(got := list(run(self, *rest))) or iter(got)
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([*SIX_OPERATORS, "Abs($x)"])))
    precompile.main()
    assert [values.shape for values in computed] == [(2, 70)] * 2  # Abs is in the second expression too


def test_a_full_disk_does_not_stop_a_kernel(cache: Path) -> None:
    """The code is then compiled for this process."""
    cache.write_text("not a folder")
    np.testing.assert_equal(doubled(NUMBERS), TWICE)


def test_without_a_folder_to_write_to_kernels_are_compiled_for_the_process(tmp_path: Path) -> None:
    """In a container with a read-only file system."""
    script = (
        "import tempfile; tempfile.mkdtemp = lambda **_: open('/nowhere/at all'); import numpy as np\n"
        "from rollforge.expressions import jit; from tests.expressions.test_kernels import NUMBERS, doubled\n"
        "print(jit.cache_folder(), doubled(NUMBERS))"
    )
    (tmp_path / "cache").write_text("not a folder")
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {
        "ROLLFORGE_CACHE": f"{tmp_path}/cache"
    }
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == f"{os.devnull}/kernels {TWICE}\n", ran.stderr


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (NUMBERS.T, "C order"),
        (NUMBERS.astype(">f8"), "byte order"),
        (np.frombuffer(b"." + NUMBERS.tobytes(), offset=1).reshape(2, 2), "aligned"),
    ],
)
def test_an_array_in_another_form_is_not_misread(array: np.ndarray[Any, Any], text: str) -> None:
    """A kernel reads arrays by address, so it only takes those whose values follow each other, in the machine's form."""
    with pytest.raises(ValueError, match=text):
        doubled(array)


def test_an_attribute_is_not_a_kernel_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may have the name of an attribute that kernels read, such as ``shape``."""
    monkeypatch.setitem(globals(), "shape", Kernel(_doubled))
    assert list(Kernel(_doubled).source().used) == ["twice"]
    assert doubled(np.ones((1, 2))) == [2.0, 2.0]
