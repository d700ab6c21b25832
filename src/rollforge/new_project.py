"""Create the folder of a new project from a template: data, a workflow or script, a README and a test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rollforge.errors import ConfigError, nearest, shown
from rollforge.paths import read_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TEMPLATES", "NewProject", "ProjectTemplate", "new_project"]

_FILES = Path(__file__).with_name("project_templates")
_SUFFIX = ".txt"
"""Of Python files in a template, which are not modules of this package."""
_PRICES = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class ProjectTemplate:
    """A kind of project."""

    summary: str
    """What it contains, in one line."""
    commands: tuple[str, ...]
    """What to run in the folder."""
    write_data: Callable[[Path], None]
    """Writes the data into the folder."""
    extras: Mapping[str, str]
    """Module that the project imports -> extra of Rollforge that installs it."""


@dataclass(frozen=True, slots=True)
class NewProject:
    """A project that was created."""

    path: Path
    template: str
    files: tuple[str, ...]
    """Names of its files and folders."""
    commands: tuple[str, ...]
    """What to run in the folder."""
    missing: tuple[str, ...]
    """Extras of Rollforge that the project needs and that are not installed."""


def new_project(path: str | os.PathLike[str], template: str = "qlib") -> NewProject:
    """Create a project that runs at once, and return what was created.

    Parameters
    ----------
    path : path
        The folder, which must not exist or must be empty. Its name becomes the name of the experiment.
    template : str
        One of `TEMPLATES`.

    Raises
    ------
    ConfigError
        If the template does not exist, if the folder's name cannot be the name of an experiment, or if the folder has files or
        cannot be written. Nothing is written then.
    """
    if template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise ConfigError(f"There is no template {shown(template)}.{nearest(template, TEMPLATES)} Known: {known}.")
    target = Path(os.path.abspath(read_path(path, "the folder of the project")))
    name = _checked_name(target.name)
    kind = TEMPLATES[template]
    with _draft(target) as draft:
        for file in sorted((_FILES / template).iterdir()):
            text = file.read_text(encoding="utf-8").replace("PROJECT_TITLE", name)
            text = text.replace("PROJECT_NAME", json.dumps(name, ensure_ascii=False))
            (draft / file.name.removesuffix(_SUFFIX)).write_text(text, encoding="utf-8")
        kind.write_data(draft)
        files = tuple(sorted(f"{p.name}/" if p.is_dir() else p.name for p in draft.iterdir()))
    missing = tuple(dict.fromkeys(extra for module, extra in kind.extras.items() if find_spec(module) is None))
    return NewProject(target, template, files, kind.commands, missing)


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,99}", name) or name.endswith("."):
        raise ConfigError(
            f"{shown(name)} cannot be the name of a project: use at most 100 letters, digits, '_', '-' and '.', beginning with a "
            "letter or a digit."
        )
    return name


@contextlib.contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Provide a temporary folder, whose contents become those of `target` if the block succeeds."""
    if os.path.lexists(target) and not target.is_dir():
        raise ConfigError(f"{str(target)!r} is a file. Give the name of a new folder.")
    exists = target.is_dir()
    if exists and any(target.iterdir()):
        raise ConfigError(f"The folder {str(target)!r} is not empty. Give the name of a new folder.")
    around = target if exists else target.parent
    draft: Path | None = None
    try:
        around.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=around))
        (draft / "new").mkdir()  # with the permissions of this user's folders, unlike that of mkdtemp
        yield draft / "new"
        if exists:
            _move_contents(draft / "new", target)
        else:
            (draft / "new").rename(target)  # fails if another process has put something there
    except OSError as exc:
        raise ConfigError(f"The folder {str(target)!r} cannot be written: {exc.strerror or exc}.") from exc
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _move_contents(source: Path, target: Path) -> None:
    """Move all files, or none: the folder itself stays the same, because it may be the current one."""
    moved = []
    try:
        for file in sorted(source.iterdir()):
            file.rename(target / file.name)
            moved.append(target / file.name)
    except OSError:
        for path in moved:
            path.rename(source / path.name)
        raise


def _write_market(folder: Path) -> None:
    from rollforge.market.demo import make_demo

    make_demo(folder / "data", instruments=60, start="2020-01-02", end="2023-12-29", universes=["all"])


def _write_prices(folder: Path) -> None:
    prices = _prices("2022-01-03", "2023-12-29", seed=5).rename(columns={"datetime": "day", "instrument": "code"})
    prices[["day", "code", *_PRICES]].to_csv(folder / "prices.csv", index=False)


def _write_days(folder: Path) -> None:
    """Write a market, and a table for each day of the week after it."""
    import pandas as pd

    from rollforge.market.importer import import_table

    bars = _prices("2023-01-02", "2023-12-22", seed=1)
    history = bars["datetime"] < pd.Timestamp("2023-12-18")
    import_table(bars[history], folder / "data")
    (folder / "days").mkdir()
    for day, rows in bars[~history].groupby("datetime"):
        rows.to_csv(folder / "days" / f"{day:%Y-%m-%d}.csv", index=False)


def _prices(start: str, end: str, *, seed: int) -> pd.DataFrame:
    """Return the bars of twelve instruments of a synthetic market: columns instrument, datetime and the fields."""
    from rollforge.features.api import D
    from rollforge.market.demo import make_demo
    from rollforge.session import Session, using

    with tempfile.TemporaryDirectory() as place:
        make_demo(place, instruments=12, start=start, end=end, universes=["all"], seed=seed)
        with using(Session(provider_uri=place)):
            named = {f"${name}": name for name in _PRICES}
            bars = D.features(D.instruments("all"), list(named)).rename(columns=named)
    return bars.dropna().astype("float64").round(4).reset_index()


_RUN = ("rollforge plan workflow.yaml", "rollforge run workflow.yaml")
_TRACKING = {"mlflow": "mlflow", "plotly": "report"}

TEMPLATES: Mapping[str, ProjectTemplate] = MappingProxyType(
    {
        "qlib": ProjectTemplate(
            "A rolling LightGBM experiment on Alpha158 with a backtest, in Qlib's format.",
            _RUN,
            _write_market,
            {"lightgbm": "lightgbm", **_TRACKING},
        ),
        "frame": ProjectTemplate(
            "A script: a CSV file of prices, features in pandas, and an estimator of scikit-learn.",
            ("python experiment.py",),
            _write_prices,
            {"sklearn": "sklearn", "plotly": "report"},
        ),
        "torch": ProjectTemplate(
            "A PyTorch module of one's own on Alpha158.",
            _RUN,
            _write_market,
            {"torch": "torch", "skorch": "torch", **_TRACKING},
        ),
        "online": ProjectTemplate(
            "A workflow that publishes signals day by day.",
            ("rollforge serve init workflow.yaml", "rollforge serve run"),
            _write_days,
            {},
        ),
        "cluster": ProjectTemplate(
            "A rolling LightGBM experiment on a cluster of Dask, Ray or Slurm.",
            _RUN,
            _write_market,
            {"lightgbm": "lightgbm", "distributed": "dask", **_TRACKING},
        ),
    }
)
"""Name -> template."""
