"""Plugins: modules of the user that are imported before anything that they provide is used.

A plugin is a module, a ``.py`` file, or the name of an entry point in the group ``rollforge.plugins`` of an installed
package. Its classes can be named by ``module_path``; on import it may add operators, stores and trackers
(:func:`~rollforge.expressions.operators.register_operator`, :func:`~rollforge.drivers.register_store`).

Plugins are listed in the session, from a workflow's ``plugins`` or from :func:`rollforge.init`, and are kept with the tasks
that are submitted. An installed package is never imported just because it has an entry point: see ``docs/security.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rollforge import trust
from rollforge.build import import_module
from rollforge.errors import ConfigError
from rollforge.session import Session
from rollforge.user_code import module_name

__all__ = ["are_loaded", "load_plugins"]


def load_plugins(session: Session) -> None:
    """Import the plugins of a session, after adding its folders to ``sys.path``. Those already imported are kept.

    Raises
    ------
    ConfigError
        If a plugin does not exist or cannot be imported; the path is ``plugins.N``.
    """
    sys.path.extend(folder for folder in session.sys_path if folder not in sys.path)
    with trust.from_origin(trust.Origin.OWN):  # the session is this user's, regardless of who wrote the task
        for i, name in enumerate(session.plugins):
            module = trust.plugin_module(name)
            if module in sys.modules and not module.endswith(".py"):
                continue
            try:
                import_module(module, f"plugins.{i}")
            except ConfigError as exc:
                raise type(exc)(f"the plugin {name} cannot be used. {exc.message}", path=exc.path) from exc


def are_loaded(plugins: Iterable[str], operators: Iterable[tuple[str, str]] = ()) -> bool:
    """Return whether this process has already imported the modules of these plugins and operators."""
    modules = [*map(trust.plugin_module, plugins), *(module for _, module in operators)]
    return all((module_name(m) if m.endswith(".py") else m) in sys.modules for m in modules)
