"""Combining predictions: the ensembles that a workflow sets for the windows of a model and for several models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rollforge.build import build, describe
from rollforge.collect.ensemble import AverageEnsemble, Ensemble, RollingEnsemble, SingleKeyEnsemble
from rollforge.collect.group import RollingGroup
from rollforge.confidential import mask_secrets
from rollforge.description import Description
from rollforge.errors import BuildError, ConfigError, CoverageError, DataError, RollforgeError, counted, nearest, shown
from rollforge.kinds import Kind
from rollforge.market.frames import number_rows
from rollforge.task import Definition

__all__ = ["Ensembles", "build_ensembles", "ensemble_parts", "ensembles_text"]

ENSEMBLE = Kind("ensemble", base=Ensemble, alone=("__call__",), argument="dict of predictions")
PARTS = ("windows", "models")
_OBJECT = ("class", "module_path", "kwargs")
_MAX_LENGTH = 200  # characters of an ensemble's arguments that are shown

Combine = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Ensembles:
    """The ensembles of an experiment: one joins the windows of each model, one combines several models."""

    windows: Combine = field(default_factory=RollingEnsemble)
    """``{window: frame} -> frame or series``, called once for each model."""
    models: Combine | None = None
    """``{model: frame} -> frame or series``, also called for a single model. None averages several models and leaves a
    single one unchanged."""
    config: Mapping[str, object] = field(default_factory=dict)
    """Those that were configured, as plain data: ``windows`` or ``models`` -> ``{"class": …, "module_path": …,
    "kwargs": …}``."""

    def join(self, frames: Mapping[tuple[str, str], pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Return the joined prediction of each model: ``{(model, window): frame} -> {model: frame}``.

        Raises
        ------
        BuildError
            If a configured ensemble fails, or returns something other than a prediction.
        CoverageError
            If it returns no rows.
        """
        groups = RollingGroup(ens=None)(frames)
        if "windows" not in self.config:
            return {model: self.windows(group) for (model,), group in groups.items()}
        return {model: self._called("windows", self.windows, group) for (model,), group in groups.items()}

    def combine(self, predictions: Mapping[str, pd.DataFrame], *, models: int) -> pd.DataFrame | None:
        """Combine the predictions of the models into one; None if there is none.

        Parameters
        ----------
        predictions : mapping
            Name of a model -> its joined prediction. Models without a finished window are left out.
        models : int
            Number of models, including those left out.

        Raises
        ------
        BuildError
            If a configured ensemble fails, or returns something other than a prediction.
        CoverageError
            If it returns no rows.
        """
        if not predictions:
            return None
        if self.models is not None:
            return self._called("models", self.models, predictions)
        if models == 1:
            return next(iter(predictions.values()))
        return AverageEnsemble()(predictions).to_frame("score")

    def _called(self, part: str, ensemble: Combine, given: Mapping[Any, pd.DataFrame]) -> pd.DataFrame:
        """Return the result of an ensemble, after checking that it is a prediction. The ensemble may change its
        argument."""
        name, where = type(ensemble).__name__, f"ensemble.{part}"
        try:
            combined = ensemble({key: frame if _is_ours(ensemble) else frame.copy() for key, frame in given.items()})
        except RollforgeError:
            raise
        except Exception as exc:
            raise BuildError(f"the ensemble {name} failed: {describe(exc)}", path=where) from exc
        if isinstance(combined, pd.Series):
            combined = combined.to_frame("score")
        if not isinstance(combined, pd.DataFrame) or not combined.shape[1]:
            raise BuildError(
                f"the ensemble {name} must return a frame or a series of scores for {_listed(given)}, found {shown(combined)}.",
                path=where,
            )
        try:
            combined = number_rows(combined, f"the result of the ensemble {name}")
        except DataError as exc:
            raise BuildError(str(exc), path=where) from exc
        if not combined.index.is_unique:
            day, code = combined.index[combined.index.duplicated()][0]
            raise BuildError(
                f"the result of the ensemble {name} has a row twice: {code} on {day:%Y-%m-%d}.", path=where
            )
        if not len(combined):
            raise CoverageError(f"The ensemble {name} returned no rows for {_listed(given)}.")
        if part == "models":
            combined = combined.set_axis(["score", *combined.columns[1:]], axis=1)
        return combined.sort_index()

    def remarks(
        self, frames: Mapping[tuple[str, str], pd.DataFrame], joined: Mapping[str, pd.DataFrame], prediction: object
    ) -> tuple[str, ...]:
        """Return a warning for each of the user's ensembles that changed which rows have a score.

        The arguments are those of :meth:`join`, its result, and the result of :meth:`combine`.
        """
        found = []
        if "windows" in self.config and not _is_ours(self.windows):
            groups = RollingGroup(ens=None)(frames)
            found += [_other_rows(self.windows, group.values(), joined[model]) for (model,), group in groups.items()]
        if self.models is not None and not _is_ours(self.models) and isinstance(prediction, pd.DataFrame):
            found.append(_other_rows(self.models, joined.values(), prediction))
        return tuple(dict.fromkeys(filter(None, found)))

    def names(self, models: int) -> dict[str, str]:
        """Return the ensembles that combine the predictions: ``windows``, and ``models`` if there are several models or
        the ensemble was configured.

        Parameters
        ----------
        models : int
            The number of models.

        Examples
        --------
        >>> Ensembles().names(1), Ensembles().names(2)
        ({'windows': 'RollingEnsemble'}, {'windows': 'RollingEnsemble', 'models': 'AverageEnsemble'})
        """
        found = {"windows": _name(self.windows, self.config.get("windows"))}
        if self.models is not None or models > 1:
            found["models"] = _name(self.models or AverageEnsemble(), self.config.get("models"))
        return found


def _name(ensemble: object, config: object) -> str:
    arguments = mask_secrets(", ".join(f"{key}={value!r}" for key, value in Description(config).kwargs.items()))
    if len(arguments) > _MAX_LENGTH:
        arguments = f"{arguments[:_MAX_LENGTH]}…"
    return f"{type(ensemble).__name__}({arguments})" if arguments else type(ensemble).__name__


def ensembles_text(names: Mapping[str, str]) -> str:
    """Return the result of :meth:`Ensembles.names` as text.

    Examples
    --------
    >>> ensembles_text({"windows": "RollingEnsemble", "models": "AverageEnsemble"})
    'RollingEnsemble over the windows; AverageEnsemble over the models'
    """
    return "; ".join(f"{name} over the {part}" for part, name in names.items())


def _is_ours(ensemble: object) -> bool:
    return type(ensemble).__module__.partition(".")[0] == "rollforge"


def _other_rows(ensemble: object, given: Iterable[pd.DataFrame], made: pd.DataFrame) -> str:
    """Describe which rows with a score an ensemble left out or added; empty if there are none."""
    first, *others = map(_scored, given)
    before, after = first.append(others).unique(), _scored(made)
    lost, added = before[~before.isin(after)], after[~after.isin(before)]
    changes = [
        f"{verb} {counted(len(rows), 'row')}{of}, such as {rows[0][1]} on {rows[0][0]:%Y-%m-%d}"
        for verb, rows, of in (("left out", lost, f" of {len(before):,}"), ("added", added, ""))
        if len(rows)
    ]
    return f"The ensemble {type(ensemble).__name__} {' and '.join(changes)}." if changes else ""


def _scored(frame: pd.DataFrame) -> pd.MultiIndex:
    """Return the rows that have a score, which is the first column."""
    index = frame.index[frame.iloc[:, 0].notna().to_numpy()]
    assert isinstance(index, pd.MultiIndex)
    return index


def _listed(given: Collection[object]) -> str:
    return ", ".join(repr(key) for key in list(given)[:3]) + (", …" if len(given) > 3 else "")


def ensemble_parts(config: object, path: str = "ensemble") -> dict[str, str | Mapping[str, object]]:
    """Return the parts of a workflow's ``ensemble``: ``windows`` and ``models``, or a single one under the empty name.

    Raises
    ------
    ConfigError
        If it is neither a class nor a mapping of parts.
    """
    if isinstance(config, Mapping) and "class" not in config:
        for key in config:
            if key not in PARTS:
                near = nearest(str(key), [*PARTS, *_OBJECT])
                raise ConfigError(
                    f"unknown key {shown(key)}.{near} Write an ensemble {{class: …, module_path: …, kwargs: …}}, or one "
                    "each under 'windows' and 'models'.",
                    path=path,
                )
        return {part: one for part, one in config.items() if one is not None}
    if not isinstance(config, (Mapping, str)):
        raise ConfigError(
            f"must be a class, or a mapping of 'windows' and 'models' to a class each, found {shown(config)}.",
            path=path,
        )
    return {"": config}


def build_ensembles(config: object, *, path: str = "ensemble", models: int = 1, windows: int = 1) -> Ensembles:
    """Return the ensembles of a workflow, after checking that they can combine the given number of predictions.

    A single ensemble combines the models; a :class:`~rollforge.collect.ensemble.RollingEnsemble` joins the windows.

    Parameters
    ----------
    config : mapping, str or None
        One class, or ``{"windows": class, "models": class}``; None for the default. A class without a module is looked
        up in `rollforge.collect`.
    path : str
        Location of `config` in its document, for errors.
    models, windows : int
        Number of models, and the largest number of windows of any of them.

    Raises
    ------
    ConfigError
        If the configuration is invalid, or refers to something that is not an ensemble.
    CodeNotAllowed
        If it refers to code that is not allowed here.

    Examples
    --------
    >>> build_ensembles("AverageEnsemble").config
    {'models': {'class': 'AverageEnsemble'}}
    >>> build_ensembles({"class": "RollingEnsemble"}).config
    {'windows': {'class': 'RollingEnsemble'}}
    """
    if config is None:
        return Ensembles()
    ensembles: dict[str, Any] = {}
    named: dict[str, Definition] = {}
    for part, one in ensemble_parts(config, path).items():
        where = f"{path}.{part}" if part else path
        if isinstance(one, str) and one.startswith("file://"):
            raise ConfigError(f"must be a class, found the file {shown(one)}.", path=where)
        ensemble = build(one, kind=ENSEMBLE, default_module="rollforge.collect", where=where)
        place = part or ("windows" if isinstance(ensemble, RollingEnsemble) else "models")
        several = models if place == "models" else windows
        if isinstance(ensemble, SingleKeyEnsemble) and several > 1:
            raise ConfigError(
                f"SingleKeyEnsemble returns the only result of a dict, but there are {several} {place}. Use "
                f"{'AverageEnsemble' if place == 'models' else 'RollingEnsemble'}, or a class of your own.",
                path=where,
            )
        if type(ensemble) is RollingEnsemble and place == "models" and models > 1:
            raise ConfigError(
                f"RollingEnsemble joins windows. With {models} models, it would keep only one of them for each row. Use "
                "AverageEnsemble, or a class of your own.",
                path=where,
            )
        ensembles[place], named[place] = ensemble, {"class": one} if isinstance(one, str) else dict(one)
    return Ensembles(**ensembles, config=named)
