"""Plan and run the workflow files among Qlib's examples, and write the table of ``docs/compat.md`` about them.

    QLIB_SOURCE=CHECKOUT python tests/compat/workflow_table.py run               # plans and runs all files
    QLIB_SOURCE=CHECKOUT python tests/compat/workflow_table.py run Linear LSTM   # runs those with one of these words
    QLIB_SOURCE=CHECKOUT python tests/compat/workflow_table.py plan              # plans all files, and runs none

It runs them in copies of the folders to which the paths in them are relative, and writes the table after each file. The
files are unchanged, except that their data folder is a small demo market with their universes, benchmarks and days, and bars
of ten minutes of each day, that PyTorch models are trained for one epoch, and that the matrix of concepts that Qlib downloads
is one of zeros and ones. What is not run keeps its cell in the table as
long as it can be planned.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rollforge import pipeline
from rollforge.errors import RollforgeError
from rollforge.features.api import D
from rollforge.market.demo import make_demo
from rollforge.market.folder_writer import write_folder
from rollforge.plan import Plan, make_plan
from rollforge.session import Session, using
from rollforge.task import Document
from rollforge.workflow import load_workflow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compat.md"
BEGIN = "<!-- written by tests/compat/workflow_table.py -->"
END = "<!-- end of the table of workflow files -->"
MARKET: dict[str, Any] = {
    "instruments": 4, "start": "2007-01-01", "end": "2021-06-30", "universes": ["csi100", "csi300", "csi500", "csi800"],
    "benchmarks": ["SH000300", "SH000905"], "codes": ["SH600000", "SH600009", "SH600010", "SH600011"],
}  # fmt: skip
MINUTES = pd.timedelta_range("14:50:00", "14:59:00", freq="min")
STARTED_IN = {"benchmarks/TRA/configs": "benchmarks/TRA"}
"""Folder of files -> the folder in which their README starts them; the others are started in that of the examples."""
SHORT = {"DNNModelPytorch": {"max_steps": 20}, "TabnetModel": {"n_epochs": 1, "pretrain_n_epochs": 1}}
"""Arguments with which PyTorch models are trained for one epoch, by class; ``n_epochs`` of the others."""
CONCEPTS = "benchmarks/HIST/qlib_csi300_stock2concept.npy", (735, 20)
"""The file that Qlib downloads for HIST, and the shape of its matrix: each stock of the index that is among the examples."""
MAX_REASON = 160


def workflow_files(checkout: Path) -> list[Path]:
    """Return the YAML files among the examples."""
    return sorted((checkout / "examples").rglob("*.yaml"))


def known_runs(page: Path) -> dict[str, str]:
    """Return the last cell of each row of the table in a page, by the name of the file."""
    found = re.findall(r"^\| `(\S+\.yaml)` \|.*\| ([^|]*) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: cell.strip() for name, cell in found}


def rows(
    checkout: Path, files: list[Path], folder: Path, chosen: Callable[[Path], bool], known: Mapping[str, str]
) -> Iterator[str]:
    """Yield the row of each file: its model, and whether it can be planned and run, or the reason why not."""
    market = folder / "market"
    make_demo(market, **MARKET)
    add_minutes(market)
    copy = folder / "examples"
    shutil.copytree(checkout / "examples", copy)
    name, shape = CONCEPTS
    np.save(copy / name, np.random.default_rng(4).integers(0, 2, shape))
    for number, file in enumerate(files):
        place = folder / str(number)
        place.mkdir()
        name = str(file.relative_to(checkout / "examples"))
        os.chdir(copy / STARTED_IN.get(os.path.dirname(name), ""))
        plan, planned = _planned(copy / name, market, place)
        ran = "" if plan is None else _ran(plan) if chosen(file) else known.get(name, "")
        cells = [f"`{name}`", _model(file), planned, ran]
        yield "| " + " | ".join(_plain(cell, checkout, folder) for cell in cells) + " |"


def add_minutes(market: Path) -> None:
    """Add bars of some minutes of each day to a market of days: the values of the day, and a little noise."""
    fields = ["open", "high", "low", "close", "volume", "vwap", "factor"]
    members = {file: file.read_bytes() for file in (market / "instruments").iterdir()}
    with using(Session(provider_uri=str(market))):
        days = pd.DatetimeIndex(D.calendar())
        daily = D.features(D.instruments("all"), [f"${field}" for field in fields])
    numbers = np.random.default_rng(3)
    series = {}
    for code, rows in daily.groupby(level="instrument"):
        values = rows.droplevel("instrument").reindex(days).to_numpy().repeat(len(MINUTES), axis=0)
        values[:, :-1] *= 1 + 0.002 * numbers.standard_normal((len(values), len(fields) - 1))
        series[str(code)] = 0, dict(zip(fields, values.T, strict=True))
    times = (days.to_numpy()[:, None] + MINUTES.to_numpy()).ravel()
    write_folder(market, times, series, {"all": {code: [(days[0], days[-1])] for code in series}}, "1min")
    for file, content in members.items():
        file.write_bytes(content)


def _model(file: Path) -> str:
    """Return the class of a file's model; empty if it has none."""
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    model = (document.get("task") or document).get("model") if isinstance(document, dict) else None
    return str(model.get("class", "")) if isinstance(model, dict) else ""


def _planned(file: Path, market: Path, place: Path) -> tuple[Plan | None, str]:
    stores: dict[str, Any] = {
        "store": f"sqlite:///{place}/tasks.db",
        "tracking": f"folder:{place}/runs",
        "experiment": "example",
        "threads": 1,
    }
    try:
        workflow = load_workflow(file, provider_uri=str(market), **stores)
        return make_plan(replace(workflow, template=_shortened(workflow.template))), "yes"
    except RollforgeError as exc:
        return None, _reason(exc)


def _shortened(template: Document) -> Document:
    """Return a task whose model, if it is one of PyTorch, is trained for one epoch."""
    model = template["model"]
    if "pytorch" not in str(model.get("module_path")):
        return template
    short = SHORT.get(model["class"], {"n_epochs": 1})
    return {**template, "model": {**model, "kwargs": {**model.get("kwargs", {}), **short}}}


def _ran(plan: Plan) -> str:
    try:
        pipeline.submit(plan)
        pipeline.train(plan, jobs=0)
        collected = pipeline.collect(plan.workflow.session, "example", plan.ids)
    except Exception as exc:  # noqa: BLE001 - the reason is the result
        return _reason(exc)
    return "yes" if collected.prediction is not None and collected.prediction.notna().any().any() else "no prediction"


def _reason(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
    problem = next((line for line in lines if not line.endswith(":")), lines[0])
    problem = re.sub(r"^(?:\S+\.yaml, |\S+\.yaml:? )?(?:line \d+: )?", "", problem.lstrip("*- "))
    problem = re.sub(r" \(relative to [^)]*\)", "", problem)
    return problem if len(problem) <= MAX_REASON else problem[:MAX_REASON].rsplit(" ", 1)[0] + " …"


def _plain(cell: str, checkout: Path, folder: Path) -> str:
    """Return the text of a cell without local paths and without what Markdown would interpret."""
    for place, name in ((folder, "FOLDER"), (checkout, "CHECKOUT"), (Path.home(), "~")):
        cell = cell.replace(str(place), name)
    return cell.replace("|", "\\|").replace("<", "&lt;") if not cell.startswith("`") else cell


def rewrite(page: Path, new: list[str], names: list[str]) -> None:
    """Replace rows of the table in a page, and keep the others of these files, in their order."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    by_name = {row.split("`")[1]: row for row in [*table.splitlines(), *new] if row.startswith("| `")}
    found = [by_name[name] for name in names if name in by_name]
    planned = sum(" | yes | " in row for row in found)
    ran = sum(row.endswith(" | yes | yes |") for row in found)
    lines = "\n".join(["| file in `examples` | model | plan | run |", "|---|---|---|---|", *found])
    untried = sum(row.endswith(" | yes |  |") for row in found)
    more = f" {untried} were not run when this table was written." if untried else ""
    summary = f"Of the {len(found)} files, {planned} can be planned, and {ran} run.{more}"
    page.write_text(f"{before}{BEGIN}\n\n{summary}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Write the table."""
    if sys.argv[1:2] not in (["plan"], ["run"]):
        print(__doc__)
        return 2
    checkout = Path(os.environ["QLIB_SOURCE"]).resolve()
    verb, *words = sys.argv[1:]

    def chosen(file: Path) -> bool:
        return verb == "run" and (not words or any(word in str(file) for word in words))

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        found = []
        files = workflow_files(checkout)
        names = [str(file.relative_to(checkout / "examples")) for file in files]
        for row in rows(checkout, files, Path(name), chosen, known_runs(PAGE)):
            print(row, flush=True)
            found.append(row)
            rewrite(PAGE, found, names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
