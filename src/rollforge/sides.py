"""The sides of a comparison: experiments, and single models of them, each with its name and what is collected of it.

A side is written as ``EXPERIMENT``, which is its joined result, or as ``EXPERIMENT:MODEL``: by ``rollforge report``, in the
addresses of the dashboard, and by :func:`rollforge.plot.compare`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, first_few, nearest, printable, shown

if TYPE_CHECKING:
    import pandas as pd

    from rollforge.collect.combine import Ensembles
    from rollforge.collect.result import Collected
    from rollforge.report.compare import Compared, Comparison
    from rollforge.session import Session
    from rollforge.store.base import TaskStore
    from rollforge.workflow import Template

__all__ = ["ComparedSides", "Side", "Source", "compare_sides", "model_names", "read_side"]


@dataclass(frozen=True, slots=True)
class Side:
    """An experiment, or one of its models.

    Examples
    --------
    >>> str(Side("trees")), str(Side("trees", "seed 7")), str(Side("a:b", "c"))
    ('trees', 'trees:seed 7', 'a\\\\:b:c')
    """

    experiment_name: str
    model: str | None = None
    """None for the joined result of all models."""

    def __str__(self) -> str:
        """Return the side as text, which :func:`read_side` reads; a colon or backslash of a name gets a backslash."""
        names = (self.experiment_name,) if self.model is None else (self.experiment_name, self.model)
        return ":".join(re.sub(r"([:\\])", r"\\\1", name) for name in names)


def read_side(text: str, models_of: Callable[[str], Sequence[str] | None]) -> Side:
    r"""Return the side that a text names.

    The first colon separates experiment and model. Names may contain colons: if the text cannot be read like that, it is the
    name of an experiment, or else begins with the longest name of one. A backslash makes a colon part of a name.

    Parameters
    ----------
    text : str
        ``EXPERIMENT`` or ``EXPERIMENT:MODEL``.
    models_of : callable
        Returns the names of the models of an experiment; None if there is no such experiment.

    Returns
    -------
    Side
        If no experiment matches, an experiment with the whole text as its name.

    Raises
    ------
    ConfigError
        If there is such an experiment, but it has no such model.

    Examples
    --------
    >>> pools = {"a": ["b", "b:c"], "a:b": ["c", "d"]}
    >>> [read_side(text, pools.get) for text in ("a", "a:b")]
    [Side(experiment_name='a', model=None), Side(experiment_name='a', model='b')]
    >>> [read_side(text, pools.get) for text in (r"a\:b", "a:b:d")]
    [Side(experiment_name='a:b', model=None), Side(experiment_name='a:b', model='d')]
    """
    known: dict[str, Sequence[str] | None] = {}
    wrong: tuple[str, str] | None = None
    for experiment, model in _readings(text):
        if experiment not in known:
            known[experiment] = models_of(experiment)
        models = known[experiment]
        if models is None:
            continue
        if model is None:
            return Side(experiment)
        found = next((name for name in (model, model.strip()) if name in models), None)
        if found is not None:
            return Side(experiment, found)
        wrong = wrong or (experiment, model)
    if wrong is None:
        return Side(text)
    experiment, model = wrong
    names = [name for name in known[experiment] or () if name]
    if not names:
        raise ConfigError(
            f"The experiment {shown(experiment)} has a single model without a name. Give the experiment alone."
        )
    raise ConfigError(
        f"The experiment {shown(experiment)} has no model {shown(model)}.{nearest(model, names)} "
        f"Known: {first_few(names, 20, show=shown)}."
    )


def _readings(text: str) -> Iterator[tuple[str, str | None]]:
    """Return the experiments and models that a text may mean, the likeliest first."""
    parts = [""]
    for token in re.findall(r"\\[:\\]|.", text, re.DOTALL):
        if token == ":":
            parts.append("")
        else:
            parts[-1] += token[-1]
    if len(parts) == 2 and all(parts):
        yield parts[0], parts[1]
    elif len(parts) == 1:
        yield parts[0], None
    yield text, None
    for found in reversed(list(re.finditer(":", text))):
        if 0 < found.start() < len(text) - 1:
            yield text[: found.start()], text[found.end() :]


def model_names(store: TaskStore, pool: str) -> list[str] | None:
    """Return the names of the models of an experiment, in the order of its tasks; None if there is no such experiment."""
    from rollforge.generate import naming

    tasks = list(store.query(pool, {}, results=False))
    found = naming.model_names([task.definition for task in tasks], [task.model_name for task in tasks])
    return list(dict.fromkeys(found)) if tasks else None


@dataclass(frozen=True, slots=True)
class Source:
    """An experiment whose tasks were collected, but not backtested."""

    name: str
    session: Session
    """With the data of the experiment."""
    collected: Collected
    templates: Sequence[Template] = ()
    """The templates of the user's own workflow file, whose strategies may be run."""
    label_days: int | None = None
    ensembles: Ensembles | None = None
    """As in :func:`~rollforge.pipeline.collect`, for models with different labels."""

    @classmethod
    def read(
        cls, session: Session, name: str, *, allow_gaps: bool = True, templates: Sequence[Template] = (),
        label_days: int | None = None, ensembles: Ensembles | None = None,
    ) -> Source:  # fmt: skip
        """Collect the tasks of an experiment.

        Parameters
        ----------
        session : Session
            The session, with the stores. If it has no data folder, that of the training is used.
        name : str
            The experiment.
        allow_gaps
            As in :func:`~rollforge.pipeline.collect`.
        templates, label_days, ensembles
            As above.

        Raises
        ------
        TaskNotFound
            If there is no such experiment.
        CoverageError, RecorderUnreachable, BuildError, CodeNotAllowed
            As :func:`~rollforge.pipeline.collect`.
        """
        from rollforge import pipeline  # a page that only names a side need not import what trains models

        pipeline.require_pool(session, name)
        session = pipeline.with_training_data(session, name)
        collected = pipeline.collect(session, name, allow_gaps=allow_gaps, label_days=label_days, ensembles=ensembles)
        return cls(name, session, collected, templates, label_days, ensembles)

    def backtested(self, collected: Collected) -> Collected:
        """Return a result of this experiment with its backtest, if its tasks have one."""
        from rollforge import pipeline

        own = pipeline.backtest_is_own(collected, self.templates)
        return pipeline.with_backtest(collected, self.session, own_code=own)

    def parts(self, collected: Collected) -> dict[str, Collected]:
        """Return the results of the models of each label, see :func:`~rollforge.pipeline.by_label`."""
        from rollforge import pipeline

        return pipeline.by_label(
            collected, self.session, self.name, label_days=self.label_days, ensembles=self.ensembles
        )


@dataclass(frozen=True, slots=True)
class ComparedSides:
    """The comparison of several sides."""

    comparison: Comparison
    definitions: Mapping[str, Mapping[str, object]]
    """Name -> definition of the first task, with the numbers of tasks and the models."""
    failed: tuple[str, ...]
    """Names of the sides of which tasks have failed."""


def compare_sides(sides: Sequence[Side], source_of: Callable[[str], Source]) -> ComparedSides:
    """Return the comparison of several experiments and models.

    An experiment whose models are not combined, because they have different labels, has a result for each label.

    Parameters
    ----------
    sides : sequence of Side
        The sides; differences are from the first.
    source_of : callable
        Returns an experiment by its name; it is called once for each.

    Raises
    ------
    ConfigError
        If a side is given twice, or there are fewer than two results.
    """
    from rollforge.report.compare import compare

    _refuse_twice(sides)
    sources = {name: source_of(name) for name in dict.fromkeys(side.experiment_name for side in sides)}
    # A workflow file has another name than its experiment.
    chosen = [
        (replace(side, experiment_name=sources[side.experiment_name].name), sources[side.experiment_name])
        for side in sides
    ]
    _refuse_twice([side for side, _ in chosen])
    unique: dict[tuple[str, tuple[str, ...] | None], _Part] = {}
    for part in (part for side, source in chosen for part in _parts(side, source)):
        unique.setdefault((part.source.name, part.models), part)
    parts = list(unique.values())
    if len(parts) < 2:
        raise ConfigError("A comparison needs at least two experiments or models.")
    named = dict(zip(_names(parts), parts, strict=True))
    return ComparedSides(
        compare([_compared(part, name) for name, part in named.items()]),
        {name: _definition(part.collected) for name, part in named.items()},
        tuple(name for name, part in named.items() if part.collected.failed),
    )


def _refuse_twice(sides: Sequence[Side]) -> None:
    twice = next((side for side, number in Counter(sides).items() if number > 1), None)
    if twice is not None:
        raise ConfigError(f"{shown(str(twice))} is given twice. Compare different experiments or models.")


def _names(parts: Sequence[_Part]) -> list[str]:
    """Return a name for each part, which can be printed, has no secrets, and is that of no other."""
    titles = Counter(part.title for part in parts)
    found: list[str] = []
    for part in parts:
        name = mask_secrets(printable(part.title if titles[part.title] == 1 else part.description))
        found.append(name if name not in found else f"{name} ({len(found) + 1})")
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """A result in the comparison."""

    title: str
    description: str
    """Longer than the title, for titles that are equal."""
    source: Source
    collected: Collected
    models: tuple[str, ...] | None = None
    """None for all models of the experiment."""


def _parts(side: Side, source: Source) -> list[_Part]:
    from rollforge import pipeline

    name, collected = side.experiment_name, source.collected
    if side.model is not None:
        return [_model_part(source, side.model)]
    if len(collected.model_names) < 2 or pipeline.are_combined(collected):
        return [_Part(name, f"experiment {shown(name)}", source, collected)]
    found = []
    for title, part in source.parts(collected).items():
        own = {outcome.task.id for outcome in part.outcomes}
        models = tuple(dict.fromkeys(outcome.model for outcome in collected.outcomes if outcome.task.id in own))
        found.append(
            _model_part(source, models[0]) if len(models) == 1
            else _Part(f"{name}: {title}", f"experiment {shown(name)}, models {shown(title)}", source, part, models)
        )  # fmt: skip
    return found


def _model_part(source: Source, model: str) -> _Part:
    title, description = f"{source.name}: {model}", f"experiment {shown(source.name)}, model {shown(model)}"
    return _Part(title, description, source, _of_model(source.collected, model), (model,))


def _of_model(collected: Collected, model: str) -> Collected:
    """Return the result of one model; its coverage and warnings are those of the experiment."""
    its = next((found for found in collected.models if found.name == model), None)
    if its is None:
        raise ConfigError(
            f"No result has a model {shown(model)}. Known: {first_few(collected.model_names, show=shown)}."
        )
    own = [i for i, outcome in enumerate(collected.outcomes) if outcome.model == model]
    schedule = replace(collected.schedule, windows=tuple(collected.schedule.windows[i] for i in own))
    return replace(
        collected, outcomes=tuple(collected.outcomes[i] for i in own), schedule=schedule, models=(its,),
        prediction=its.prediction, label=its.label, target=its.target,
    )  # fmt: skip


def _compared(part: _Part, name: str) -> Compared:
    from rollforge.report.compare import compared
    from rollforge.report.inputs import ReportInputs, task_rows

    one = part.source.backtested(replace(part.collected, paths=()))  # paths are not compared
    return compared(
        ReportInputs(
            name, task_rows(one), one.prediction, one.label, label_text=one.target.expression, label_days=one.target.days,
            portfolio=None if one.backtest is None else one.backtest.result.report, calendar=_calendar(one),
        )
    )  # fmt: skip


def _calendar(collected: Collected) -> pd.DatetimeIndex:
    import pandas as pd

    return pd.DatetimeIndex(collected.schedule.calendar)


def _definition(collected: Collected) -> dict[str, object]:
    outcomes = collected.outcomes
    first = dict(outcomes[0].task.definition) if outcomes else {}
    return {"tasks": len(outcomes), "models": ", ".join(collected.model_names), **first}
