"""Universes, their members by day, and the provider of the session's data folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import Days, Times, read_day, start_position, stop_position
from rollforge.errors import ConfigError, DataError, DataNotFound, nearest, shown
from rollforge.frequency import frequency
from rollforge.market.filters import BaseDFilter, build_filters
from rollforge.market.folder_files import Span
from rollforge.market.lost_zeros import with_lost_zeros
from rollforge.market.provider import Provider, open_provider
from rollforge.session import Session, current_session

__all__ = [
    "ALWAYS",
    "membership",
    "newest_version",
    "one_version",
    "resolve_instruments",
    "session_provider",
    "spans_of",
    "upper_codes",
]

ALWAYS = [(np.datetime64("0001-01-01"), np.datetime64("9999-12-31"))]
"""Membership period of a member without dates: all days."""


_kept: ContextVar[dict[str, Provider] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def one_version() -> Iterator[None]:
    """In this block, read each data folder in the version that is opened first, even if rows are added in the
    meantime."""
    token = _kept.set({} if (kept := _kept.get()) is None else kept)
    try:
        yield
    finally:
        _kept.reset(token)


@contextlib.contextmanager
def newest_version() -> Iterator[None]:
    """In this block, read data folders as they are now, even inside :func:`one_version`."""
    token = _kept.set(None)
    try:
        yield
    finally:
        _kept.reset(token)


def session_provider(session: Session | None = None, freq: str | None = None) -> Provider:
    """Return the provider of a session's data folder, at its ``freq``, up to its ``data_until``.

    Parameters
    ----------
    session : Session, optional
        By default the current one.
    freq : str, optional
        The frequency that will be read, if the session has a folder for it; by default the session's.

    Raises
    ------
    DataNotFound
        If no folder is configured, or it does not exist, or none has data of the frequency.
    DataError
        If there are no data up to ``data_until``, or the frequency is invalid.
    """
    session = session or current_session()
    if session.provider_uri is None:
        raise DataNotFound("No data folder is given. Call rollforge.init(FOLDER), or set ROLLFORGE_DATA.")
    name = freq or session.freq
    kept, place = _kept.get(), str(session.folder(name))
    provider = open_provider(place) if kept is None or place not in kept else kept[place]
    if kept is not None:
        kept[place] = provider
    if name is not None and session.folders:
        own = frequency(name)
        if own not in session.folders and own not in provider.frequencies():
            known = ", ".join(dict.fromkeys([*session.folders, *provider.frequencies()]))
            raise DataNotFound(f"There is no data folder for the frequency {name!r}. There are folders for: {known}.")
        provider = provider.with_freq(own)
    elif session.freq is not None:
        provider = provider.with_freq(session.freq)
    return provider if session.data_until is None else provider.bounded(session.data_until)


def upper_codes(codes: Iterable[object], *, path: str = "") -> dict[object, str]:
    """Return {code: code in upper case}, the form that data folders use for instruments.

    Raises
    ------
    ConfigError
        If two are spellings of the same instrument; the message gives both.
    """
    spellings: dict[str, object] = {}
    for code in codes:
        other = spellings.setdefault(str(code).upper(), code)
        if other != code:
            raise ConfigError(
                f"{shown(other)} and {shown(code)} are the same instrument, because codes are not case-sensitive. "
                "Keep one of them.",
                path=path,
            )
    return {code: upper for upper, code in spellings.items()}


def read_spans(days: Any, code: str) -> list[Span]:
    """Return the periods of membership of an instrument, given as pairs of days.

    Raises
    ------
    ConfigError
        If they have another form.
    """
    try:
        pairs = [(first, last) for first, last in days]
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"expected a list of pairs of days, such as [[2015-01-01, 2016-12-31]], found {shown(days)}.",
            path=f"instruments.{code}",
        ) from exc
    return [(read_day(first, code), read_day(last, code)) for first, last in pairs]


def resolve_instruments(
    provider: Provider, instruments: object
) -> tuple[dict[str, list[Span] | None], list[BaseDFilter]]:
    """Return the members of a universe with their periods of membership (None means all days), and the filters to
    apply.

    Parameters
    ----------
    provider : Provider
        Provider of the universes.
    instruments : str, sequence of str, or mapping
        Name of a universe, codes, ``{code: [(first, last), …]}``, or ``{"market": one of these, "filter_pipe": […]}``.

    Raises
    ------
    DataNotFound, DataError
        If the universe is unknown or empty, or a code has no data.
    ConfigError
        If `instruments` has another form.
    """
    if isinstance(instruments, str):
        return dict(provider.instruments(instruments)), []
    if isinstance(instruments, Mapping) and "market" in instruments:
        pipe = build_filters(instruments.get("filter_pipe") or [])
        members, inner = resolve_instruments(provider, instruments["market"])
        return members, [*inner, *pipe]
    if isinstance(instruments, Mapping):
        upper = upper_codes(instruments, path="instruments")
        spans: dict[str, list[Span] | None] = {
            upper[code]: read_spans(days, str(code)) for code, days in instruments.items()
        }
        return dict(sorted(spans.items())), []
    if not isinstance(instruments, Iterable):
        raise ConfigError(f"instruments must be the name of a universe or a list of codes, found {shown(instruments)}.")
    codes = sorted({str(code).upper() for code in instruments})
    if not codes:
        raise DataError("The list of instruments is empty.")
    unknown = [c for c in codes if not provider.has(c)]
    if unknown:
        known = [p.name.upper() for p in (provider.path / "features").glob("*")]
        longer = with_lost_zeros(unknown[0], provider.has)
        raise DataNotFound(
            f"There are no data for {', '.join(map(repr, unknown[:5]))} in {provider.path}."
            f"{nearest(unknown[0], known) if longer is None else f' Did you mean {longer!r}, in quotes?'}"
        )
    return dict.fromkeys(codes), []


def membership(members: Mapping[str, Sequence[Span] | None], days: Times) -> NDArray[np.bool_]:
    """Return a (members, days) mask of the days on which each member belongs to its universe; None means all days."""
    inside = np.zeros((len(members), len(days)), bool)
    for row, spans in zip(inside, members.values(), strict=True):
        if spans is None:
            row[:] = True
        for a, b in spans or ():
            row[start_position(days, a) : stop_position(days, b)] = True
    return inside


def spans_of(days: Days, inside: NDArray[np.bool_]) -> list[Span]:
    """Return the runs of consecutive days on which `inside` is true, as (first, last)."""
    turns = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    return [(days[a], days[b - 1]) for a, b in zip(turns[::2], turns[1::2], strict=True)]
