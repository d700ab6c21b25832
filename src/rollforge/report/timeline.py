"""The windows on a time axis, drawn with HTML boxes: no script needed, printable, and scales with the page width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rollforge.dates import ONE_DAY, has_times, last_moment, show_time
from rollforge.generate.timeline import SegmentSpan, window_title
from rollforge.markup import Markup, join, tag
from rollforge.report.drawing import LEGEND, Figure
from rollforge.report.inputs import TaskRow

__all__ = ["segment_names", "timeline", "window_bars"]

_KNOWN = ("train", "valid", "test")
# With more rows, each becomes thinner and fewer are numbered, but all remain visible.
_ROW_HEIGHTS = ((16, 22, 1), (32, 16, 1), (64, 10, 2), (128, 6, 5), (400, 4, 20), (100_000, 2, 50))
_MOST_NAMES = 4  # of models above their rows


def segment_names(tasks: Sequence[TaskRow]) -> list[str]:
    """Return the names of all segments: train, valid, test, then any others in order of first use."""
    used = dict.fromkeys(name for t in tasks for name in t.window.segments)
    return [*(n for n in _KNOWN if n in used), *(n for n in used if n not in _KNOWN)]


def timeline(tasks: Sequence[TaskRow]) -> Markup | None:
    """Return one row per window and one box per segment, with dates in tooltips; None if there are no segments.

    Models that have the same segments share a row. If some have others, the rows of each set of models follow their names.
    """
    spans = [s for t in tasks for s in t.window.segments.values()]
    if not spans:
        return None
    low, last = min(s.start for s in spans), max(s.end for s in spans)
    high = _end(last)
    windows = _windows(tasks)
    height, every = next((h, e) for most, h, e in _ROW_HEIGHTS if len(windows) <= most)
    ticks = [(_share(day, low, high), label) for day, label in _ticks(low, high)]
    grid = join(*(tag("i", style=f"left:{at:.2f}%") for at, _ in ticks))
    axis = join(*(tag("span", label, style=f"left:{at:.2f}%") for at, label in ticks if at < 97))
    rows: list[Markup] = []
    several = len({_models(window) for window in windows}) > 1
    shown: tuple[str, ...] = ()
    for i, window in enumerate(windows):
        if several and _models(window) != shown:
            shown = _models(window)
            more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
            rows.append(tag("div", ", ".join(shown[:_MOST_NAMES]) + more, class_="name"))
        rows.append(_row(window, low, high, numbered=i % every == 0))
    names = segment_names(tasks)
    keys = [tag("span", tag("i", class_=f"box {_kind(name)}"), name) for name in names]
    if any(t.status == "failed" for t in tasks):
        keys.append(tag("span", tag("i", class_="box test failed"), "failed"))
    if any(t.status not in ("failed", "done") for t in tasks):
        keys.append(tag("span", tag("i", class_="box test open"), "not done yet"))
    return tag(
        "div",
        tag("div", *keys, class_="keys"),
        tag(
            "div",
            tag("div", axis, class_="axis"),
            tag("div", grid, class_="grid"),
            *rows,
            class_="rows",
            style=f"--row:{height}px",
        ),
        class_="timeline",
        role="img",
        aria_label=f"{', '.join(names)} of {len(windows)} windows from {show_time(low)} to {show_time(last)}",
    )


def _windows(tasks: Sequence[TaskRow]) -> list[list[TaskRow]]:
    """Return the tasks of each window, first those of the models that come first."""
    found: dict[object, list[TaskRow]] = {}
    for task in tasks:
        found.setdefault((task.window.index, tuple(task.window.segments.items())), []).append(task)
    order = {models: i for i, models in enumerate(dict.fromkeys(map(_models, found.values())))}
    return sorted(found.values(), key=lambda window: order[_models(window)])


def _models(window: Sequence[TaskRow]) -> tuple[str, ...]:
    return tuple(task.model for task in window)


def _end(time: np.datetime64) -> np.datetime64:
    """Return where a span that ends with a day, or a bar, ends on the axis."""
    return last_moment(time) + np.timedelta64(1, "s")


def window_bars(tasks: Sequence[TaskRow]) -> Figure:
    """Return the same as a plot."""
    several = any(task.model for task in tasks)
    rows = [f"{task.window.index + 1}{f' {task.model}' if several else ''}" for task in tasks]
    data: list[Figure] = []
    for name in segment_names(tasks):
        colour = f"@{_kind(name)}" if name in _KNOWN else "@soft"
        parts = [
            (row, task, span, start, end)
            for row, task in zip(rows, tasks, strict=True)
            if (span := task.window.segments.get(name)) is not None
            for start, end in span.parts
        ]
        data.append(
            {
                "type": "bar", "orientation": "h", "name": name, "y": [row for row, *_ in parts],
                "base": [str(start) for *_, start, _ in parts],
                # The length of a bar over days is in milliseconds.
                "x": [float((_end(end) - start) / np.timedelta64(1, "ms")) for *_, start, end in parts],
                "marker": {"color": [_bar_colour(colour, task.status if name == "test" else "done") for _, task, *_ in parts]},
                "customdata": [_bar_text(task, name, span) for _, task, span, *_ in parts],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )  # fmt: skip
    layout = {
        "height": 100 + 24 * len(rows),
        "barmode": "overlay",
        "bargap": 0.25,
        "hovermode": "closest",
        "xaxis": {"type": "date"},
        "yaxis": {
            "type": "category",
            "categoryarray": rows[::-1],
            "categoryorder": "array",
            "title": {"text": "window"},
        },
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def _bar_colour(colour: str, status: str) -> str:
    return {"done": colour, "failed": "@red"}.get(status, "@line")


def _bar_text(task: TaskRow, name: str, span: SegmentSpan) -> str:
    text = f"{task.title}, {name}: {span} · {span.days} {_unit(span)}"
    if name != "test":
        return text
    ic = task.metrics.get("IC")
    return f"{text} · {task.status}" + (f" · IC {ic:.4f}" if ic is not None else "")


def _unit(span: SegmentSpan) -> str:
    return "bars" if has_times(span.start) else "trading days"


def _kind(name: str) -> str:
    return name if name in _KNOWN else "other"


def _share(day: np.datetime64, low: np.datetime64, high: np.datetime64) -> float:
    return 100 * float((day - low) / ONE_DAY) / float((high - low) / ONE_DAY)


def _row(window: Sequence[TaskRow], low: np.datetime64, high: np.datetime64, *, numbered: bool) -> Markup:
    segments = window[0].window.segments
    boxes = [_box(window, name, span, part, low, high) for name, span in segments.items() for part in span.parts]
    number = str(window[0].window.index + 1) if numbered else ""
    return tag("div", tag("b", number), tag("div", *boxes, class_="lane"), class_="row")


def _box(
    window: Sequence[TaskRow],
    name: str,
    span: SegmentSpan,
    part: tuple[np.datetime64, np.datetime64],
    low: np.datetime64,
    high: np.datetime64,
) -> Markup:
    left, right = _share(part[0], low, high), _share(_end(part[1]), low, high)
    state = _state({task.status for task in window}) if name == "test" else ""
    side = " end" if left > 55 else ""
    ended = f" · {_ended(window)}" if name == "test" else ""
    title = window[0].title if len(window) == 1 else window_title(window[0].window.index)
    tip = f"{title}, {name}: {span} · {span.days} {_unit(span)}{ended}"
    return tag(
        "i", class_=f"box {_kind(name)}{state}{side}", style=f"left:{left:.3f}%;width:{right - left:.3f}%", data_tip=tip
    )


def _state(statuses: set[str]) -> str:
    """Return the class of the box of a test segment: failed if a model has failed, open if one is not done yet."""
    if "failed" in statuses:
        return " failed"
    return "" if statuses == {"done"} else " open"


def _ended(window: Sequence[TaskRow]) -> str:
    """Return the status of a window, or with several models the models of each status.

    Examples
    --------
    >>> from rollforge.generate.timeline import Window
    >>> _ended([TaskRow(Window(0, {}), status, model=model) for model, status in (("a", "done"), ("b", "failed"))])
    'a done; b failed'
    """
    by_status: dict[str, list[str]] = {}
    for task in window:
        by_status.setdefault(task.status, []).append(task.model)
    if len(by_status) == 1:
        return next(iter(by_status))
    return "; ".join(f"{', '.join(models)} {status}" for status, models in by_status.items())


def _ticks(low: np.datetime64, high: np.datetime64) -> Iterator[tuple[np.datetime64, str]]:
    """Yield first days of months, quarters, years or several years: between three and a dozen of them."""
    months = int((high.astype("M8[M]") - low.astype("M8[M]")) / np.timedelta64(1, "M")) + 1
    step = next((s for s in (1, 3, 6, 12, 24, 60) if months / s <= 12), 120)
    first = low.astype("M8[M]").astype(int)
    for month in range(first - first % step if step <= 12 else first - first % 12, first + months + step, step):
        # The first trading day is rarely the first of its month, but the month is labelled anyway.
        day = low if month == first else np.datetime64(month, "M").astype("M8[D]")
        if low <= day < high:
            yield day, str(np.datetime64(month, "M")) if step < 12 else str(np.datetime64(month, "M"))[:4]
