"""All benchmarks, one JSON line each: ``python -m benchmarks [--small]``."""

from __future__ import annotations

import subprocess
import sys

NAMES = ("alpha158", "overhead", "pool", "collecting", "rolling")


def main() -> None:
    """Run each in a process of its own."""
    rest = sys.argv[1:]
    runs = [[name, *rest] for name in NAMES] + [["rolling", "--ridge", *rest]]
    failed = [
        r[0]
        for r in runs
        if subprocess.run([sys.executable, "-m", f"benchmarks.{r[0]}", *r[1:]], check=False).returncode
    ]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
