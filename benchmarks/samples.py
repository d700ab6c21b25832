"""Batches of samples that span 20 days, from Alpha158's panel, drawn at random as a PyTorch model draws them.

python -m benchmarks.samples
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import setting

BATCH = 4096
STEPS = 20


def measured(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the processor time and the time by the clock of one call, in milliseconds."""
    used, began = time.process_time(), time.perf_counter()
    work()
    return 1000 * (time.process_time() - used), 1000 * (time.perf_counter() - began)


def resident() -> float:
    """Return the memory of this process in MB, without pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def batches(provider: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure batches with one thread and with two, and copying a whole piece of memory of the same size."""
    from rollforge.build import build
    from rollforge.features.timeseries import TSDatasetH
    from rollforge.session import Session, using

    config = setting.job()["dataset"]["kwargs"]
    session = Session(provider_uri=str(provider), cache=str(folder / "cache"), threads=1)
    with using(session):
        handler = build(config["handler"])
        dataset = TSDatasetH(step_len=STEPS, handler=handler, segments={"all": (None, None)})
        handler.fetch(col_set="feature", data_key="infer")  # builds the panel
        before = resident()
        began = time.process_time()
        samples = dataset.prepare("all", col_set="feature", data_key="infer")
        built = time.process_time() - began
        index_mb = resident() - before
        samples.config(fillna_type="ffill+bfill")
        order = samples.own_days()[1]
        shares = np.shares_memory(samples.blocks[0], handler.panel("infer").groups["feature"].values)
        numbers = np.random.default_rng(0)
        # In the order of their rows, as a model reads them. Each batch is another one, so that no cache holds its rows.
        drawn = [order[np.sort(numbers.choice(len(order), BATCH, replace=False))] for _ in range(repeats)]
        memory = samples.batch(drawn[0])
        source = np.array(samples.blocks[0][: BATCH * STEPS])
        target = np.empty_like(source)
        copying = sorted(measured(lambda: np.copyto(target, source))[0] for _ in drawn)
        one = sorted(measured(lambda idx=idx: samples.batch(idx, memory))[0] for idx in drawn)  # type: ignore[misc]
    with using(replace(session, threads=2)):
        two = sorted(measured(lambda idx=idx: samples.batch(idx, memory)) for idx in drawn)  # type: ignore[misc]
    both, clock = sorted(cpu for cpu, _ in two), sorted(wall for _, wall in two)
    return {
        "rows": len(samples), "columns": len(samples.columns), "copies": not shares, "build_cpu_ms": 1000 * built,
        "index_mb": index_mb, "copying_cpu_ms": setting.median(copying), "one_cpu_ms": setting.median(one),
        "one_cpu_best_ms": one[0], "two_cpu_ms": setting.median(both), "two_ms": setting.median(clock),
        "two_best_ms": clock[0], "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure, and print one line."""
    options = setting.arguments(__doc__ or "")
    with setting.workplace() as folder:
        found = batches(setting.market(options, folder), folder, max(25, options.repeats))
        ratios = {"of_copying": found["copying_cpu_ms"] / found["one_cpu_ms"]}
        setting.report("samples", ratios, small=options.small, **found)


if __name__ == "__main__":
    main()
