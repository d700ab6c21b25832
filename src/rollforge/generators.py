"""The generators of a workflow: its sections ``grid``, ``generate`` or ``generators``, and ``rolling``, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isabstract
from typing import TYPE_CHECKING, Any, Literal

from rollforge.build import build, describe, target_of
from rollforge.errors import BuildError, ConfigError, MissingCode, RollforgeError, nearest, shown
from rollforge.kinds import Kind
from rollforge.task import Document

if TYPE_CHECKING:
    from rollforge.generate.base import TaskGen
    from rollforge.generate.sequence import Named

__all__ = ["GeneratorEntry", "ListedGenerator", "build_generators", "generate_entries", "grid_entry", "rolling_entry"]

_MODULE = "rollforge.generate"
_KEYS = ("class", "module_path", "kwargs")


@dataclass(frozen=True, slots=True)
class GeneratorEntry:
    """A generator as a workflow describes it."""

    config: Document
    """``{"class": …, "module_path": …, "kwargs": …}``"""
    place: str
    """Its location in the document."""
    arguments: str
    """The location of its arguments."""
    only_argument: str = ""
    """The argument whose value is at that location itself; empty if every argument is below it."""

    def locate(self, path: str) -> str:
        """Return the location in the document of `path`, as an error of the generator gives it."""
        built = f"{self.place}.kwargs"
        if not path or (_inside(path, self.place) and not _inside(path, built)):
            return path or self.place
        if path.partition(".")[0] in ("task", "models"):
            return path
        inside = path.removeprefix(built).removeprefix(".") if _inside(path, built) else path
        if self.only_argument and _inside(inside, self.only_argument):
            inside = inside.removeprefix(self.only_argument).removeprefix(".")
        return f"{self.arguments}.{inside}".rstrip(".")


def _inside(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def grid_entry(values: Document) -> GeneratorEntry:
    """Return the generator of the section ``grid``."""
    return GeneratorEntry({"class": "GridGen", "kwargs": {"values": values}}, "grid", "grid", only_argument="values")


def rolling_entry(arguments: Document, form: Literal["qlib", "rollforge"]) -> GeneratorEntry:
    """Return the generator of the section ``rolling``."""
    return GeneratorEntry(
        {"class": "RollingGen", "kwargs": {**_rolling_defaults(form), **arguments}}, "rolling", "rolling"
    )


def _rolling_defaults(form: str) -> dict[str, object]:
    """Return the arguments of ``RollingGen`` that depend on a workflow's format.

    In Qlib's format the windows are Qlib's, and a window's backtest keeps the days of the file.
    """
    own = form == "rollforge"
    return {"trunc_days": "auto" if own else None, "roll_backtest": own}


def generate_entries(section: object, name: str = "generate") -> tuple[GeneratorEntry, ...]:
    """Return the generators of the section ``generate``, or of the section called `name`.

    An entry is the name of a generator, ``{NAME: ARGUMENTS}``, or ``{class: …, module_path: …, kwargs: …}``.

    Raises
    ------
    ConfigError
        If the section is not a list of these.
    """
    if section is None:
        return ()
    if not isinstance(section, list):
        raise ConfigError(f"must be a list of generators, found {shown(section)}.", path=name)
    return tuple(_entry(one, f"{name}.{i}") for i, one in enumerate(section))


def _entry(given: object, place: str) -> GeneratorEntry:
    if isinstance(given, str):
        return GeneratorEntry({"class": given}, place, place)
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(
            f"must be the name of a generator, {{NAME: ARGUMENTS}}, or {{class: …, module_path: …, kwargs: …}}; "
            f"found {shown(given)}.",
            path=place,
        )
    if any(key in given for key in _KEYS):
        unknown = next((key for key in given if key not in _KEYS), None)
        if unknown is not None:
            raise ConfigError(
                f"unknown key.{nearest(str(unknown), _KEYS)} Allowed: {', '.join(_KEYS)}.", path=f"{place}.{unknown}"
            )
        return GeneratorEntry(given, place, f"{place}.kwargs")
    if len(given) > 1:
        raise ConfigError(
            f"names several generators: {', '.join(map(str, given))}. Write each as a separate entry, with '- '.",
            path=place,
        )
    ((name, arguments),) = given.items()
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ConfigError(f"must be a mapping of arguments, found {shown(arguments)}.", path=f"{place}.{name}")
    return GeneratorEntry({"class": name, "kwargs": arguments or {}}, place, f"{place}.{name}")


@dataclass(frozen=True, slots=True)
class ListedGenerator:
    """A generator of a workflow, and where it is described."""

    generator: TaskGen
    entry: GeneratorEntry

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.generator).__name__

    def apply(self, tasks: Sequence[Named]) -> list[Named]:
        """Apply the generator to named tasks, see :func:`~rollforge.generate.sequence.apply_generator`.

        Raises
        ------
        RollforgeError
            Any error that it raises, with its location in the document.
        """
        from rollforge.generate.sequence import apply_generator

        try:
            return apply_generator(self.generator, tasks)
        except ConfigError as exc:
            raise _relocated(exc, self.entry) from exc
        except RollforgeError:
            raise
        except Exception as exc:
            raise BuildError(f"the generator {self.name} failed: {describe(exc)}", path=self.entry.place) from exc


def build_generators(entries: Sequence[GeneratorEntry], form: Literal["qlib", "rollforge"]) -> list[ListedGenerator]:
    """Return the generators that `entries` describe.

    In Rollforge's own format, a ``RollingGen`` purges its windows (``trunc_days: auto``) and moves their backtests
    (``roll_backtest: true``) unless it says otherwise, as the section ``rolling`` does.

    Raises
    ------
    ConfigError
        If one cannot be built, or if several make windows.
    """
    made = [ListedGenerator(_built(entry, form), entry) for entry in entries]
    windows = [one for one in made if one.generator.only_windows]
    if len(windows) > 1:
        first, second = windows[:2]
        raise ConfigError(
            f"{second.name} makes windows, but so does {first.name} ({first.entry.place}). Remove one of them.",
            path=second.entry.place,
        )
    return made


def _built(entry: GeneratorEntry, form: str) -> Any:
    from rollforge.generate.base import TaskGen
    from rollforge.generate.rolling import RollingGen

    options: dict[str, Any] = {
        "kind": Kind("task generator", base=TaskGen),
        "default_module": _MODULE,
        "where": entry.place,
    }
    try:
        _check_name(entry)
        target, _ = target_of(entry.config, **options)
        if form == "rollforge" and isinstance(target, type) and issubclass(target, RollingGen):
            options["try_kwargs"] = _rolling_defaults(form)
        return build(entry.config, **options)
    except ConfigError as exc:
        raise _relocated(exc, entry) from exc.__cause__ or exc
    except RollforgeError:
        raise
    except Exception as exc:
        name = entry.config.get("class")
        raise BuildError(f"the generator {name} cannot be built: {describe(exc)}", path=entry.place) from exc


def _check_name(entry: GeneratorEntry) -> None:
    """Check that a generator without a module is one of Rollforge's."""
    from rollforge import generate
    from rollforge.generate.base import TaskGen

    name = entry.config.get("class")
    if entry.config.get("module_path") or not isinstance(name, str) or "." in name or name in dir(generate):
        return
    classes = {public: getattr(generate, public) for public in dir(generate)}
    known = sorted(
        k for k, c in classes.items() if isinstance(c, type) and issubclass(c, TaskGen) and not isabstract(c)
    )
    raise MissingCode(
        f"there is no generator {name!r:.100}.{nearest(name, known)} Rollforge has {', '.join(known)}. "
        "For your own, write {class: …, module_path: …, kwargs: …}.",
        path=entry.place,
    )


def _relocated(exc: ConfigError, entry: GeneratorEntry) -> ConfigError:
    place = entry.locate(exc.path)
    return exc if place == exc.path else type(exc)(exc.message, path=place)
