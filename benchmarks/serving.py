"""One more day of a service in a new process, without training; then several services at a time.

python -m benchmarks.serving
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import setting

MODULE = "benchmarks.serving"
SERVICES = (1, 5, 10)
SMALL_SERVICES = (1, 4)
WORKFLOW: str = """
rollforge: {{data: {data}, tracking: "folder:runs", experiment: {name}, cache: {cache}}}
task:
  model: {{class: LinearModel, module_path: qlib.contrib.model.linear, kwargs: {{estimator: ridge, alpha: 1.0}}}}
  dataset:
    class: DatasetH
    module_path: qlib.data.dataset
    kwargs:
      handler: {handler}
      segments: {{train: {train}, test: {test}}}
  record: [SignalRecord]
rolling: {{step: 250, rtype: sliding, trunc_days: auto}}
"""
_PRICES = ["close/Ref($close, 1) - 1", "close/Mean($close, 5) - 1", "volume/Mean($volume, 10)"]
_FEW = {
    "class": "DataHandlerLP",
    "module_path": "qlib.data.dataset.handler",
    "kwargs": {
        "instruments": "all",
        "data_loader": {
            "class": "QlibDataLoader",
            "kwargs": {
                "config": {
                    "feature": [[f"${formula}" for formula in _PRICES], ["return", "position", "activity"]],
                    "label": [[setting.LABEL], ["label"]],
                }
            },
        },
        "infer_processors": [{"class": "Fillna"}],
        "learn_processors": [{"class": "DropnaLabel"}],
    },
}


def alpha158(train: list[str]) -> dict[str, Any]:
    """Return the handler of the large service: Alpha158, scaled by parameters learned on the training segment."""
    window = {"fit_start_time": train[0], "fit_end_time": train[1]}
    processors = [
        {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True, **window}},
        {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
    ]
    kwargs = {"instruments": "all", "start_time": train[0], **window, "infer_processors": processors}
    return {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": kwargs}


def workflow(
    folder: Path, name: str, data: Path, handler: dict[str, Any], segments: dict[str, list[str | None]]
) -> Path:
    """Write the workflow of a service, and return its file."""
    file = folder / f"{name}.yaml"
    shown = {key: json.dumps(value) for key, value in segments.items()}
    cache = folder / "cache"
    file.write_text(WORKFLOW.format(data=data, name=name, cache=cache, handler=json.dumps(handler), **shown))
    return file


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a Rollforge command in a folder."""
    line = [sys.executable, "-m", MODULE, "--as-child", json.dumps(list(arguments))]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))}
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a command, and return its cost."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{MODULE} failed:\n{out}\n{err[-3000:]}")
    cost: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return cost


def command(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a Rollforge command, and return its cost, including the start of the interpreter."""
    began = time.perf_counter()
    cost = ended(start(folder, *arguments))
    return {**cost, "seconds": time.perf_counter() - began}


def child(arguments: list[str]) -> None:
    """Run a command in this process, and print its cost."""
    from rollforge.cli.main import main as rollforge

    sys.argv = ["rollforge", *arguments]
    try:
        rollforge()
    except SystemExit as done:
        if done.code:
            raise
    print(json.dumps({"cpu_seconds": sum(os.times()[:4]), "peak_mb": setting.peak_memory()}))


def used(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk."""
    return sum(os.lstat(file).st_blocks * 512 for file in folder.rglob("*") if not file.is_dir())


def serve_days(folder: Path, repeats: int, options: Any) -> dict[str, Any]:
    """Serve single days of the large service, and return the costs of a day."""
    data = setting.market(options, folder)
    days = calendar(data)
    history, last = folder / "history", len(days) * 3 // 4
    train, test = [days[0], days[last]], [days[last + 1], None]
    tables = cut(data, folder / "days", history, days[-1 - repeats :])
    command(folder, "data", "import", str(tables[0]), str(history))
    file = workflow(folder, "large", history, alpha158(train), {"train": [*train], "test": test})
    command(folder, "serve", "init", str(file))
    first = command(folder, "serve", "run")
    costs, appended, before = [], [], used(folder / "cache") + used(folder / ".rollforge") + used(folder / "runs")
    for table in tables[1:]:
        appended.append(command(folder, "data", "append", str(table), str(history)))
        costs.append(command(folder, "serve", "run"))
    after = used(folder / "cache") + used(folder / ".rollforge") + used(folder / "runs")
    took = [one["seconds"] for one in costs]
    return {
        "instruments": len(list((history / "features").iterdir())),
        "seconds": setting.median(took),
        "spread": max(took) / min(took),
        "cpu_seconds": setting.median([one["cpu_seconds"] for one in costs]),
        "peak_mb": max(one["peak_mb"] for one in costs),
        "more_mb_a_day": (after - before) / 1e6 / repeats,
        "append_cpu_seconds": setting.median([one["cpu_seconds"] for one in appended]),
        "first_cpu_seconds": first["cpu_seconds"],
    }


def calendar(data: Path) -> list[str]:
    """Return the trading days of a data folder."""
    from rollforge.market.provider import open_provider

    return [str(day) for day in open_provider(data).calendar()]


def cut(data: Path, target: Path, history: Path, days: list[str]) -> list[Path]:
    """Write tables of the data up to the first of some days, and of each later one, and return their files."""
    from rollforge.features.api import D
    from rollforge.session import Session, using

    target.mkdir()
    fields = ["open", "high", "low", "close", "volume", "factor"]
    with using(Session(provider_uri=str(data))):
        frame = D.features(D.instruments("all"), [f"${name}" for name in fields], None, days[-1])
    frame = frame.set_axis(fields, axis=1).reset_index().rename(columns={"datetime": "date"}).dropna(subset=["close"])
    files = []
    for place, day in enumerate(days):
        rows = frame[frame["date"] <= day] if place == 0 else frame[frame["date"] == day]
        files.append(target / f"{day}.parquet")
        rows.to_parquet(files[-1])
    return files


def several(folder: Path, data: Path, counts: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Serve a day of several small services, each in a process, all at the same time; return the costs by their
    number."""
    days = calendar(data)
    first, found = len(days) - len(counts) - 1, {}
    segments: dict[str, list[str | None]] = {"train": [days[-130], days[-30]], "test": [days[-20], None]}
    names = [f"small{place}" for place in range(max(counts))]
    for name in names:
        file = workflow(folder, name, data, _FEW, segments)
        command(folder, "serve", "--service", name, "init", str(file), "--begin", days[first])
        command(folder, "serve", "--service", name, "run", "--until", days[first])
    for place, count in enumerate(counts, 1):
        # Services that run for the first time in this loop have missed days, which they catch up on before the
        # measurement.
        for name in names[:count]:
            command(folder, "serve", "--service", name, "run", "--until", days[first + place - 1])
        began = time.perf_counter()
        running = [start(folder, "serve", "--service", n, "run", "--until", days[first + place]) for n in names[:count]]
        costs = [ended(process) for process in running]
        cpu = sum(one["cpu_seconds"] for one in costs)
        found[count] = {"seconds": time.perf_counter() - began, "cpu_seconds": cpu}
    return found


def main() -> None:
    """Measure both, and print one line."""
    from rollforge.market.demo import make_demo

    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=child):  # type: ignore[arg-type]
        return
    with setting.workplace() as folder:
        figures = serve_days(folder, options.repeats, options)
        make_demo(folder / "small", instruments=60, years=1, end="2018-12-31")
        small = several(folder, folder / "small", SMALL_SERVICES if options.small else SERVICES)
        one, most = small[1], small[max(small)]
        ratios = {"services_cpu": one["cpu_seconds"] * max(small) / most["cpu_seconds"]}
        setting.report("serving", ratios, small=options.small, **figures, services=small)


if __name__ == "__main__":
    main()
