"""The harness of the fuzz tests: what every reader of outside input promises, and inputs that try to break it.

A :class:`Target` is one reader with valid inputs. :func:`check` runs it on bytes and holds it to the promise: a result or a
:class:`~rollforge.errors.RollforgeError`, within :data:`SECONDS` and :data:`MEMORY`, with a short message that can be
printed, and with nothing written where it failed. :func:`inputs` makes inputs for hypothesis out of the valid ones, and
``tests/fuzz/run.py`` makes them with atheris, which follows the branches of the code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rollforge.errors import RollforgeError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
"""Inputs of each test: 200 in `.ci/run`."""
SECONDS = 2.0
"""Processor time of one input. What a test waits for a busy machine does not count."""
PATIENCE = 5
"""An input is stopped after so many times as long: an exception out of a signal may hit code that ignores it."""
MEMORY = 500 * 2**20
"""Bytes of memory that one input may add to the process."""
LONGEST_MESSAGE = 2000
CRASHES = Path(__file__).with_name("crashes")
"""Inputs that once broke a promise, ``crashes/TARGET/FILE``; each is a test case."""


@dataclass(frozen=True, repr=False)
class Target:
    """One reader of outside input."""

    name: str
    run: Callable[[bytes, Path], Any]
    """Reads an input. It has an empty folder with an empty folder ``out`` inside, in which nothing may be left by a failure."""
    seeds: Sequence[bytes]
    """Inputs that are read without an error."""
    words: Sequence[bytes] = ()
    """Words of its language, beside those of :data:`WORDS`."""
    grammar: st.SearchStrategy[bytes] | None = None
    """Inputs built by the rules of its language."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class _NoEnd(BaseException):
    """Goes through ``except Exception`` of the reader."""


class TooSlow(AssertionError):
    """An input took longer than :data:`SECONDS`."""


class TooMuchMemory(AssertionError):
    """An input took more than :data:`MEMORY`."""


# -- the promise -------------------------------------------------------------------------------------------------------


def check(target: Target, data: bytes) -> Any:
    """Run a target on an input and hold it to the promise; return its result, or its error."""
    try:
        return _checked(target, data)
    except TooSlow:  # another program may have been in the way, or something was imported for the first time
        return _checked(target, data)


def _checked(target: Target, data: bytes) -> Any:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        out = Path(name) / "out"
        out.mkdir()
        with _bounded():
            found = _outcome(target, data, Path(name))
        if isinstance(found, RollforgeError):
            message = check_message(found)
            left = sorted(str(p.relative_to(out)) for p in out.rglob("*"))
            assert not left, f"{left} was written, although it failed: {message}"
        return found


def _outcome(target: Target, data: bytes, folder: Path) -> Any:
    try:
        return target.run(data, folder)
    except RollforgeError as exc:
        return exc


def check_message(exc: RollforgeError) -> str:
    """Return the message of an error, which is short and can be printed."""
    message = str(exc)
    assert len(message) < LONGEST_MESSAGE, f"a message of {len(message)} characters"
    assert all(c.isprintable() or c in "\n\t" for c in message), f"a message that cannot be printed: {message!a}"
    assert message.strip(), "an error without a message"
    return message


def attempt(ask: Callable[[], Any]) -> Any:
    """Return what a reader gives, or None for an error that is as it should be: for targets that ask several."""
    try:
        return ask()
    except RollforgeError as exc:
        check_message(exc)
        return None


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Complain of what took too long or too much memory, and end what does not come to an end."""

    def stop(signum: int, frame: Any) -> None:
        raise _NoEnd

    before = _memory("VmRSS")
    _forget_peak()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # A single request for far more memory than there is must not stop the machine.
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 4 * 2**30, hard))
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, PATIENCE * SECONDS, 1)
    signal.setitimer(signal.ITIMER_REAL, 4 * PATIENCE * SECONDS, 1)  # waiting for nothing takes no processor time
    began = time.process_time()
    try:
        yield
    except _NoEnd as exc:
        raise TooSlow(f"no end after {PATIENCE * SECONDS:g} s") from exc
    finally:
        took = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # The errors of the reader come first; these are for what went well otherwise.
    if took > SECONDS:
        raise TooSlow(f"{took:.1f} s")
    used = _memory("VmHWM") - before
    if used > MEMORY:
        raise TooMuchMemory(f"{used / 2**20:.0f} MB")


def _memory(name: str) -> int:
    """A figure of this process, in bytes: VmRSS, VmSize, or VmHWM, the most that VmRSS ever was."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# -- inputs ------------------------------------------------------------------------------------------------------------

WORDS: tuple[bytes, ...] = (
    *(w.encode("utf-8", "surrogatepass") for w in (
        # numbers
        "0", "-1", "1e400", "-0.0", "nan", "inf", "-inf", "1_000", "0x10", "010", "2147483648", "18446744073709551616", "1e-400",
        "9" * 400, "9" * 5000, str(2**1024), "0.1e999999999", "٣", "½", "true", "null", "None", "~", "",
        # dates
        "2020-02-30", "1600-01-01", "1677-09-21", "2262-04-12", "9999-12-31", "10000-01-01", "0000-00-00", "0001-01-01",
        "2020-01-01T25:00:00", "2020-01-01 00:00:00+99:99", "2020-13-01", "20200101", "2020", "2020-01", "01/02/2020", "NaT",
        "2020-01-01T00:00:00[Europe/Nowhere]", "-2020-01-01", "1e9",
        # texts
        "\x00", "\ud800", "\udcff", "\ufeff", "\x1b[31m", "\x1b]0;x\x07", "\u202e", "\u2028", "\x85", "\r", "\n", "\t", "'", '"',
        "\\", "a" * 300, "x" * 20_000, "%s", "%00", "{0}", "{{ 1/0 }}", "{% for i in range(9) %}x{% endfor %}", "[/bold]", "é",
        # paths
        "~nobody_of_that_name/x", "../../x", "/dev/zero", "/dev/null", "/proc/self/mem", "/", ".", "..", "//", "C:\\x", "CON",
        # brackets
        "(" * 2000, "[" * 2000, "{" * 2000, ")", "]", "}", "(", "[", "{", ",", ":", "&a", "*a", "<<", "!!python/object:os.system",
        "!!binary", "!!timestamp", "!!int", "!!float", "!!set", "!!omap", "---", "? ", "- ", "$", "$ref", "$ts", "$date", "$map",
    )),
    b"\xff", b"\xfe\xff", b"\xff\xfe", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\x93NUMPY",
)  # fmt: skip
"""Words that readers stumble over, whatever their language."""

_TOKEN = re.compile(rb"[A-Za-z_$][\w$]*|[-+]?[0-9][\w.:+-]*|\s+|[^\w\s]", re.DOTALL)


def mutate(data: bytes, seed: int, words: Sequence[bytes] = (), others: Sequence[bytes] = ()) -> bytes:
    """Return `data` changed in one place, as `seed` says."""
    rng = random.Random(seed)
    return rng.choice(_MUTATIONS)(data, rng, words if words and rng.random() < 0.5 else WORDS, others or (data,))


def _flip(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    if not data:
        return rng.choice(words)
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _overwrite(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at, count = rng.randrange(len(data) + 1), rng.choice([1, 2, 4, 8])
    extreme = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80", rng.randbytes(1)])
    return data[:at] + extreme * count + data[at + count :]


def _cut(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _leave_out(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[min(stop, start + 64) :]


def _repeat(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start:stop] * rng.choice([1, 1, 1, 3, 50]) + data[stop:]


def _insert(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(words) + data[at:]


def _splice(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _swap_tokens(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    tokens = _TOKEN.findall(data)
    if len(tokens) < 2:
        return data + data
    a, b = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    tokens[a], tokens[b] = tokens[b], tokens[a]
    return b"".join(tokens)


def _replace_token(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    tokens = _TOKEN.findall(data)
    places = [i for i, token in enumerate(tokens) if not token.isspace()]
    if not places:
        return rng.choice(words)
    tokens[rng.choice(places)] = rng.choice(words)
    return b"".join(tokens)


def _swap_lines(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


_MUTATIONS = (
    _flip, _overwrite, _cut, _leave_out, _repeat, _insert, _splice, _swap_tokens, _replace_token, _replace_token, _replace_token,
    _swap_lines,
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Input:
    """Bytes, of which a failing test prints a part."""

    data: bytes

    def __repr__(self) -> str:
        more = f" + {len(self.data) - 1500} more" if len(self.data) > 1500 else ""
        return f"{self.data[:1500]!r}{more}"


@st.composite
def _mutated(draw: st.DrawFn, target: Target) -> bytes:
    data = target.seeds[draw(st.integers(0, len(target.seeds) - 1))]
    for seed in draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5)):
        data = mutate(data, seed, target.words, target.seeds)
    return data[:2_000_000]


def inputs(target: Target) -> st.SearchStrategy[Input]:
    """Return inputs for a target: valid ones changed in some places, ones by its grammar, and noise."""
    kinds = [_mutated(target), _mutated(target)]
    kinds += [target.grammar, target.grammar] if target.grammar is not None else [_mutated(target)]
    kinds.append(
        st.one_of(
            st.binary(max_size=64),
            st.text(max_size=64).map(_bytes),
            st.integers(0, len(WORDS) - 1).map(lambda i: WORDS[i]),
        )
    )
    return st.one_of(kinds).map(Input)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def text_of(data: bytes) -> str:
    """Return an input as text that may hold anything: bytes that are no UTF-8 become lone surrogates, as from ``argv``."""
    return data.decode("utf-8", "surrogateescape")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**63, -(2**63) - 1, 10**400]),
        st.floats(),
        st.text(max_size=8),
        st.integers(0, len(WORDS) - 1).map(lambda i: WORDS[i].decode("utf-8", "replace")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=8,
)
"""Values of JSON, also such as JSON cannot hold: NaN, numbers of 400 digits."""


def as_json(value: Any) -> bytes:
    """Return a value of :data:`json_values` as bytes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


# -- tests of a target -------------------------------------------------------------------------------------------------


def fuzzed(*targets: Target, examples: int = EXAMPLES) -> Callable[[type], type]:
    """Give a test class the three tests of its targets: valid inputs, made ones, and those that once failed."""

    def decorate(cls: type) -> type:
        cls.targets = targets  # type: ignore[attr-defined]

        @pytest.mark.parametrize("target", targets, ids=lambda t: t.name)
        def test_valid_inputs_are_read(self: Any, target: Target) -> None:
            for seed in target.seeds:
                found = outcome_of_seed(target, seed)
                assert not isinstance(found, RollforgeError), f"{found} - in {seed[:200]!r}"

        @pytest.mark.parametrize("target", targets, ids=lambda t: t.name)
        def test_any_input_gives_a_result_or_one_error(self: Any, target: Target) -> None:
            for seed in target.seeds:
                outcome_of_seed(target, seed)  # what is compiled or imported for the first time is no fault of an input

            @settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            )
            @given(data=inputs(target))
            def run(data: Input) -> None:
                check(target, data.data)

            run()
            gc.collect()

        @pytest.mark.parametrize(
            ("target", "file"),
            [(t, f) for t in targets for f in crashes(t.name)],
            ids=lambda v: v.name,
        )
        def test_what_once_failed_does_not(self: Any, target: Target, file: Path) -> None:
            for seed in target.seeds:
                outcome_of_seed(target, seed)
            check(target, file.read_bytes())

        cls.test_valid_inputs_are_read = test_valid_inputs_are_read  # type: ignore[attr-defined]
        cls.test_any_input_gives_a_result_or_one_error = test_any_input_gives_a_result_or_one_error  # type: ignore[attr-defined]
        if any(crashes(t.name) for t in targets):
            cls.test_what_once_failed_does_not = test_what_once_failed_does_not  # type: ignore[attr-defined]
        return cls

    return decorate


def outcome_of_seed(target: Target, data: bytes) -> Any:
    """Return the result or the error of a valid input, whatever it takes: it may import or compile for the first time."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        (Path(name) / "out").mkdir()
        return _outcome(target, data, Path(name))


def crashes(name: str) -> list[Path]:
    """Return the inputs that once broke a promise of a target."""
    return sorted(p for p in (CRASHES / name).glob("*") if p.is_file())


def all_targets() -> dict[str, str]:
    """Return the name of every target, and the test file beside this one that it is in."""
    files = sorted(p.stem for p in Path(__file__).parent.glob("test_*.py"))
    return {name: file for file in files for name in targets_of(file)}


def targets_of(file: str) -> dict[str, Target]:
    """Return the targets of a test file beside this one."""
    sys.path.insert(0, str(Path(__file__).parent))
    values = vars(importlib.import_module(file)).values()
    own = [v for v in values if isinstance(v, type) and v.__module__ == file]
    return {target.name: target for cls in own for target in getattr(cls, "targets", ())}
