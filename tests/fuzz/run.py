"""Fuzz the readers with atheris, which follows the branches of the code: ``make fuzz``.

::

    python tests/fuzz/run.py                          all targets, 10 seconds each
    python tests/fuzz/run.py --runs 100               all targets, the same 100 inputs of each every time
    python tests/fuzz/run.py --seconds 300 yaml csv   two of them, five minutes each
    python tests/fuzz/run.py --list

Inputs that reach new branches are saved in ``.fuzz/TARGET`` and used by the next run; with ``--runs`` nothing is saved
or used, so that the inputs depend only on the code. An input that breaks a promise is saved in
``tests/fuzz/crashes/TARGET`` and is a test case from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
CORPUS = Path.cwd() / ".fuzz"
_SEED = 1


def _fuzz(file: str, name: str, seconds: int, runs: int) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    try:
        import atheris
    except ImportError:  # it has no wheels for some systems and versions of Python
        atheris = None
    warnings.simplefilter("error")
    with contextlib.nullcontext() if atheris is None else atheris.instrument_imports(include=["rollforge"]):
        from fuzzing import CRASHES, check, mutate, outcome_of_seed, targets_of

        target = targets_of(file)[name]
    scratch = tempfile.TemporaryDirectory(prefix="fuzz-corpus-")  # libFuzzer ends the process: its parent removes it
    corpus = Path(scratch.name) if runs else CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:20]).write_bytes(seed)
        outcome_of_seed(target, seed)  # imports and compilation must not count for the first measured input

    def one(data: bytes) -> None:
        try:
            check(target, data)
        except BaseException:  # noqa: BLE001 - whatever it is, the input is kept
            kept = CRASHES / name / hashlib.sha256(data).hexdigest()[:16]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            traceback.print_exc()
            print(
                f"\n{name}: the input is kept in {kept}; 'pytest tests/fuzz -k what_once_failed' runs it again",
                flush=True,
            )
            os._exit(77)

    if atheris is None:
        rng, end, done = random.Random(_SEED if runs else time.time_ns()), time.monotonic() + seconds, 0
        while done < runs if runs else time.monotonic() < end:
            done += 1
            data = rng.choice(target.seeds)
            for _ in range(rng.randint(1, 6)):
                data = mutate(data, rng.getrandbits(32), target.words, target.seeds)
            one(data[:200_000])
        return

    def changed(data: bytes, most: int, seed: int) -> bytes:
        made = atheris.Mutate(data, most) if seed % 3 == 0 else mutate(data, seed, target.words, target.seeds)
        return made[:most]

    options = [
        *([f"-runs={runs}", f"-seed={_SEED}"] if runs else [f"-max_total_time={seconds}"]),
        "-max_len=200000",
        "-timeout=0",  # the harness interrupts inputs that do not end
        "-rss_limit_mb=4096",
        "-print_final_stats=0",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=changed)
    atheris.Fuzz()


def main() -> None:
    """Run each target in its own process, and exit with code 1 if one of them broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("targets", nargs="*", help="names of targets; by default all")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="so many inputs for each target, the same ones every time")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="targets side by side; by default one a core"
    )
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        _fuzz(*options.here, options.seconds, options.runs)
        return
    from fuzzing import all_targets

    known = all_targets()
    if options.list:
        print("\n".join(known))
        return
    unknown = [t for t in options.targets if t not in known]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; known: {', '.join(known)}")
    asked = options.targets or list(known)
    with ThreadPoolExecutor(options.jobs) as pool:
        broken = [
            name
            for name, well in pool.map(lambda n: _in_a_process(known[n], n, options.seconds, options.runs), asked)
            if not well
        ]
    if broken:
        sys.exit(f"{len(broken)} of {len(asked)} targets broke a promise: {', '.join(broken)}")


def _in_a_process(file: str, name: str, seconds: int, runs: int) -> tuple[str, bool]:
    command = [sys.executable, __file__, "--here", file, name, "--seconds", str(seconds), "--runs", str(runs)]
    with tempfile.TemporaryDirectory(prefix="fuzz-run-") as place:
        environment = {**os.environ, "TMPDIR": place, **({"PYTHONHASHSEED": "0"} if runs else {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    tail = "" if done.returncode == 0 else f" (code {done.returncode})\n{(done.stdout + done.stderr)[-4000:]}"
    print(f"{name}: {'well' if done.returncode == 0 else 'BROKEN'}{tail}", flush=True)
    return name, done.returncode == 0


if __name__ == "__main__":
    main()
