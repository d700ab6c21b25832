"""The options of a run: ``--on``, ``--jobs``, ``--cpus``, …, and the section ``run`` of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from rollforge.errors import ConfigError, nearest
from rollforge.limits import read_memory

__all__ = ["ENGINES", "LOCAL", "MAX_SILENCE", "RunOptions", "read_engine"]

MAX_SILENCE = 60.0
"""Maximum `silence` in seconds: as long as a lease of the pool."""

T = TypeVar("T")

ENGINES = ("ray", "dask", "slurm")
LOCAL = "local"
"""Processes of this machine."""
ENGINE_PATTERN = rf"^(({LOCAL}|{'|'.join(ENGINES)}):?|(ray|dask):(//)?[^/]+:[0-9]+)$"
"""What :func:`read_engine` accepts, for programs that check a text by a regular expression, such as editors."""


def read_engine(on: str) -> tuple[str, str]:
    """Return the engine that ``--on`` or ``run: {on: …}`` names, and its address; empty if it has none.

    Raises
    ------
    ConfigError
        If the engine is unknown, or the address is not one of this engine.

    Examples
    --------
    >>> read_engine("ray:head:6379"), read_engine("ray://head:10001")
    (('ray', 'head:6379'), ('ray', 'ray://head:10001'))
    >>> read_engine("dask://scheduler:8786"), read_engine("slurm")
    (('dask', 'tcp://scheduler:8786'), ('slurm', ''))
    """
    kind, _, rest = on.partition(":")
    if kind not in (*ENGINES, LOCAL):
        raise ConfigError(
            f"{on!r} is not a known engine.{nearest(kind, (*ENGINES, LOCAL))} Known: {', '.join(ENGINES)} and {LOCAL}; with "
            "an address, such as ray:HOST:6379 or dask://HOST:8786.",
            path="on",
        )  # fmt: skip
    if not rest:
        return kind, ""
    if kind in ("slurm", LOCAL):
        raise ConfigError(f"{kind} has no address, found {on!r}.", path="on")
    host, _, port = rest.removeprefix("//").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(
            f"must have an address with a host and a port, such as {_EXAMPLES[kind]}, found {on!r}.", path="on"
        )
    if kind == "dask":
        return kind, f"tcp://{host}:{port}"
    return kind, on if rest.startswith("//") else rest


_EXAMPLES = {"ray": "ray:HOST:6379 or ray://HOST:10001", "dask": "dask://HOST:8786"}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run: where tasks run and what each needs. None: not given."""

    on: str | None = None
    jobs: int | None = None
    cpus: int | None = None
    memory: int | None = None
    """Bytes."""
    gpus: float | None = None
    data: Literal["sent", "shared"] | None = None
    silence: float | None = None
    """Seconds."""
    slurm: Mapping[str, object] = field(default_factory=dict)
    """Options of Slurm's jobs."""
    spans: bool | None = None
    """Whether tasks are traced with OpenTelemetry."""
    names: Mapping[str, str] = field(default_factory=dict)
    """How an option is called where it was given, for errors, such as ``{"cpus": "--cpus"}``."""

    def over(self, **given: Any) -> RunOptions:
        """Return options with those of the command line in place of these; None keeps one.

        Examples
        --------
        >>> RunOptions(on="ray", cpus=4).over(on="dask", cpus=None).cpus
        4
        """
        found = {name: value for name, value in given.items() if value is not None}
        if "memory" in found:
            found["memory"] = read_memory(found["memory"], path="--memory")
        return replace(self, **found, names={**self.names, **{name: f"--{name}" for name in found}})

    @property
    def engine(self) -> str:
        """Name of the engine: ``ray``, ``dask``, ``slurm``, or ``local`` if there is none."""
        return self.named(lambda: LOCAL if self.on is None else read_engine(self.on)[0])

    def named(self, call: Callable[[], T]) -> T:
        """Return the result of `call`; an error about an option names it as it was given."""
        try:
            return call()
        except ConfigError as exc:
            raise ConfigError(exc.message, path=self.names.get(exc.path, exc.path)) from None
