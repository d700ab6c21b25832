"""Qlib's commands: ``qrun``, and the modules that its documentation runs with ``python -m``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata

from rollforge.errors import ConfigError, MissingDependency, nearest

__all__ = ["arguments", "qrun", "rolling", "rolling_base", "rolling_ddgda"]


def arguments(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Parse the arguments of a command as Python Fire does: positional, ``--name=value`` or ``--name value``.

    Raises
    ------
    ConfigError
        For an unknown name, a missing value, or too many arguments.

    Examples
    --------
    >>> arguments(["a.yaml", "--uri-folder=runs"], ["config_path", "experiment_name", "uri_folder"])
    {'config_path': 'a.yaml', 'uri_folder': 'runs'}
    """
    named: dict[str, str] = {}
    by_place: list[str] = []
    left = iter(given)
    for argument in left:
        if not argument.startswith("--"):
            by_place.append(argument)
            continue
        key, equals, value = argument[2:].partition("=")
        key = key.replace("-", "_")
        if key not in names:
            raise ConfigError(f"unknown option {argument!r}.{nearest(key, names)} Known: {', '.join(names)}.")
        named[key] = value if equals else next(left, "")
        if not named[key]:
            raise ConfigError(f"the option --{key} needs a value.")
    free = [name for name in names if name not in named]
    if len(by_place) > len(free):
        raise ConfigError(f"unexpected argument {by_place[len(free)]!r}. Arguments are: {', '.join(names)}.")
    return {**dict(zip(free, by_place, strict=False)), **named}


# -- qrun --------------------------------------------------------------------------------------------------------------

_QRUN = """usage: qrun WORKFLOW.yaml [EXPERIMENT] [FOLDER]

Train the workflow's task once and keep its records, as Qlib's runner does ('rollforge run' makes a report, too; a
workflow with a 'rolling' or 'grid' section is passed on to it).

  --config_path WORKFLOW.yaml
  --experiment_name EXPERIMENT  if the file sets none; by default 'workflow'
  --uri_folder FOLDER           an mlruns folder for the runs, if the file sets none; by default Rollforge's store
"""


def qrun() -> None:
    """``qrun WORKFLOW.yaml [EXPERIMENT] [FOLDER]``, also ``python -m qlib.workflow.cli`` and ``python -m
    qlib.cli.run``."""
    given = sys.argv[1:]
    if not given or {"-h", "--help"} & set(given):
        (sys.stdout if given else sys.stderr).write(_QRUN)
        sys.exit(0 if given else 2)
    _guarded(lambda: _qrun(**arguments(given, ["config_path", "experiment_name", "uri_folder"])))


def _qrun(config_path: str = "", experiment_name: str = "workflow", uri_folder: str = "") -> None:
    from rollforge.cli import workflow as command
    from rollforge.cli.terminal import echo, echo_error
    from rollforge.compat.qlib import console
    from rollforge.confidential import mask_secrets
    from rollforge.plan import make_plan
    from rollforge.run.execute import task_train
    from rollforge.session import using
    from rollforge.track.base import folder_uri
    from rollforge.workflow import load_workflow
    from rollforge.yaml12 import read_yaml

    if not config_path:
        raise ConfigError("qrun needs a workflow file.")
    theirs = pyqlib_version()
    if theirs:
        echo_error(
            f"qrun: Rollforge runs this workflow. pyqlib {theirs} is installed too; its own runner is "
            "'python -m qlib.cli.run'."
        )
    loaded = load_workflow(config_path)
    document, _ = read_yaml(loaded.text, config_path)
    session, name = loaded.session, loaded.experiment_name
    if uri_folder and not (document.get("qlib_init") or {}).get("exp_manager"):
        session = session.with_(tracking_uri=folder_uri(uri_folder, create=True))
    if loaded.form == "qlib" and not document.get("experiment_name"):
        name = experiment_name
    session = session.with_(experiment_name=name)
    if loaded.rolling is not None or loaded.grid or loaded.generate:
        command.run(loaded.path, tracking_uri=session.tracking_uri, experiment_name=name)
        return
    console.show()
    plan = make_plan(replace(loaded, session=session, experiment_name=name))
    with using(session):
        recorder = task_train(plan.tasks[0], experiment_name=name)
        recorder.save_objects(config=document)
    echo(f"recorder {recorder.id} of experiment {name!r} in {mask_secrets(session.tracking_uri)}")


def pyqlib_version() -> str | None:
    """Return the version of pyqlib, if it is also installed."""
    try:
        return metadata.version("pyqlib")
    except metadata.PackageNotFoundError:
        return None


# -- rolling -----------------------------------------------------------------------------------------------------------


def rolling() -> None:
    """``python -m qlib.contrib.rolling base --conf_path FILE … run``."""
    from rollforge.rolling import DDGDA, Rolling

    _fire({"base": Rolling, "ddgda": DDGDA})


def rolling_base() -> None:
    """``python -m qlib.contrib.rolling.base --conf_path FILE … run``."""
    from rollforge.rolling import Rolling

    _fire(Rolling)


def rolling_ddgda() -> None:
    """``python -m qlib.contrib.rolling.ddgda``: report that it is not supported."""
    from rollforge.rolling import DDGDA

    _guarded(DDGDA)


def _fire(component: object) -> None:
    from rollforge.compat.qlib import console
    from rollforge.compat.qlib.config import auto_init

    def command() -> None:
        try:
            import fire
        except ImportError as exc:
            raise MissingDependency(
                "This command parses its arguments with Python Fire. Install it: pip install 'rollforge[qlib-scripts]'"
            ) from exc
        console.show()
        auto_init(only_file=True)
        fire.Fire(component)

    _guarded(command)


def _guarded(command: Callable[[], object]) -> None:
    from rollforge.cli.program import guarded

    guarded(command)
