"""Run all benchmarks, each in a separate process, and print a table; write JSON lines.

python -m benchmarks [--small] [--only NAME,…] [--output FILE] [--check RECORDED]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RUNS: dict[str, list[str]] = {
    "alpha158": ["alpha158", "--repeats", "5"],
    "expressions": ["expressions"],
    "growing": ["growing"],
    "scale": ["scale", "--repeats", "3"],
    "windows": ["windows"],
    "samples": ["samples"],
    "overhead": ["overhead"],
    "pool": ["pool"],
    "queries": ["queries"],
    "collecting": ["collecting"],
    "listing": ["listing"],
    "many": ["many"],
    "rolling_lightgbm": ["rolling"],
    "rolling_ridge": ["rolling", "--ridge", "--uncached"],
}
SMALL = {"rolling_lightgbm": ["--windows", "3"], "rolling_ridge": ["--windows", "3"]}
FLOOR = 0.5
"""A ratio must not fall below this share of the recorded one."""


def run(name: str, small: bool, rest: list[str]) -> dict[str, Any] | None:
    """Return the result of a benchmark, or None if it failed."""
    command = [sys.executable, "-m", f"benchmarks.{RUNS[name][0]}", *RUNS[name][1:]]
    command += ["--small", *SMALL.get(name, [])] if small else []
    began = time.monotonic()
    done = subprocess.run([*command, *rest], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"name": name, "took_seconds": round(time.monotonic() - began, 1), **found}


def table(found: list[dict[str, Any]], recorded: dict[str, dict[str, float]]) -> Table:
    """Return a table of measured and recorded ratios, and the spread of Rollforge's times over the repeats."""
    shown = Table("benchmark", "ratio", "measured", "recorded", "spread", "took")
    for one in found:
        first = True
        for ratio, value in (one.get("ratios") or {"": None}).items():
            known = recorded.get(one["name"], {}).get(ratio)
            shown.add_row(
                one["name"] if first else "", ratio, "" if value is None else f"{value:,.2f}",
                "" if known is None else f"{known:,.2f}", f"{one['spread']:.2f}" if first and "spread" in one else "",
                f"{one['took_seconds']:.0f} s" if first else "",
            )  # fmt: skip
            first = False
    return shown


def regressions(found: list[dict[str, Any]], recorded: dict[str, dict[str, float]]) -> list[str]:
    """Return the ratios that are below half of the recorded ones, or missing."""
    measured = {one["name"]: one.get("ratios", {}) for one in found}
    return [
        f"{name} {ratio}: recorded {known:.2f}, measured {measured[name].get(ratio, 'nothing')}"
        for name, ratios in recorded.items()
        if name in measured
        for ratio, known in ratios.items()
        if measured[name].get(ratio, 0.0) < FLOOR * known
    ]


def main() -> None:
    """Run the benchmarks, print the results, and fail if a benchmark failed or a ratio is too low."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small sizes on demo data, in a few minutes")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--output", type=Path, help="file for JSON lines, written after each benchmark")
    parser.add_argument("--check", type=Path, help="file with recorded ratios; fail if one falls below half of it")
    options, rest = parser.parse_known_args()
    recorded = json.loads(options.check.read_text()) if options.check else {}
    names = [name for name in options.only.split(",") if name] or list(RUNS)
    found, failed = [], []
    console = Console()
    for name in names:
        console.print(f"[dim]{name} …[/dim]")
        one = run(name, options.small, rest)
        if one is None:
            failed.append(f"{name}: failed")
            continue
        found.append(one)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text("".join(json.dumps(f) + "\n" for f in found))
    console.print(table(found, recorded))
    wrong = failed + regressions(found, recorded)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
