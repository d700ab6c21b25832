"""Render the template of a workflow file, within limits.

A template that contains only variable names is rendered in this process. One that computes (loops, filters, operators)
is rendered in a separate process, which is ended if it uses too much time or memory, because Jinja's sandbox limits
neither.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rollforge.confidential import is_secret_name, remember_secret
from rollforge.errors import ConfigError, MissingDependency
from rollforge.limits import LIMITS

if TYPE_CHECKING:
    import jinja2

__all__ = ["render"]

_MEMORY = 512 * 2**20
_TIMEOUT_SECONDS = 60.0
"""Wall-clock limit of the process in seconds, including its start. The configurable limit is on its processor time."""


def render(text: str, name: str) -> str:
    """Render the text of a workflow file with variables from the environment, as Qlib's runner does.

    Parameters
    ----------
    text : str
        The file's text. Without ``{{`` and ``{%`` it is returned unchanged.
    name : str
        Name of the file, for messages.

    Raises
    ------
    MissingDependency
        If Jinja is not installed.
    ConfigError
        If the template cannot be rendered, or uses too much time or memory.
    """
    if "{{" not in text and "{%" not in text:
        return text
    try:
        import jinja2
        from jinja2.sandbox import SandboxedEnvironment
    except ImportError as exc:
        raise MissingDependency(
            f"{name} is a Jinja template, which needs the package jinja2. Install it: pip install "
            "'rollforge[templates]'"
        ) from exc
    for word in set(re.findall(r"[A-Za-z_]\w*", text)):
        if is_secret_name(word):  # the report shows the rendered workflow
            remember_secret(os.environ.get(word, ""))
    environment = SandboxedEnvironment()
    try:
        tree = environment.parse(text)
        rendered = environment.from_string(tree).render(os.environ) if _only_names(tree) else _computed(text, name)
    except (jinja2.TemplateError, RecursionError) as exc:
        reason = str(exc) or type(exc).__name__
        raise ConfigError(f"{name}: the template cannot be rendered: {reason}") from exc
    LIMITS["workflow_size"].check(len(rendered.encode("utf-8", "replace")), f"{name}: the rendered template holds")
    return rendered


def _only_names(tree: jinja2.nodes.Template) -> bool:
    """Return whether a template contains only text and variable names."""
    import jinja2

    allowed = (jinja2.nodes.Output, jinja2.nodes.TemplateData, jinja2.nodes.Name)
    return all(isinstance(node, allowed) for node in tree.find_all(jinja2.nodes.Node))


def _computed(text: str, name: str) -> str:
    limit = LIMITS["template_ms"].value
    asked = {
        "text": text, "variables": dict(os.environ), "seconds": limit / 1000, "memory": _MEMORY,
        "most": LIMITS["workflow_size"].value,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM],
            input=json.dumps(asked).encode("ascii"),
            capture_output=True,
            timeout=_TIMEOUT_SECONDS + limit / 1000,
            env={k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"},
        )
    except subprocess.TimeoutExpired:
        LIMITS["template_ms"].refuse(f"{name}: rendering the template takes too long")
    if done.returncode == -signal.SIGPROF:
        LIMITS["template_ms"].refuse(f"{name}: rendering the template takes more than {limit:,} ms of CPU time")
    try:
        answer: Mapping[str, str] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ConfigError(
            f"{name}: the template cannot be rendered: {lines[-1] if lines else f'exit code {done.returncode}'}"
        ) from None
    if "error" in answer:
        raise ConfigError(f"{name}: the template cannot be rendered: {answer['error']}")
    return answer["text"]


_PROGRAM = """
import json, resource, signal, sys
from jinja2.sandbox import SandboxedEnvironment
asked = json.load(sys.stdin)
sys.set_int_max_str_digits(4300)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
if used:
    resource.setrlimit(resource.RLIMIT_AS, (used + asked["memory"],) * 2)
signal.signal(signal.SIGPROF, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
try:
    made, size = [], 0
    for piece in SandboxedEnvironment().from_string(asked["text"]).generate(asked["variables"]):
        made.append(piece)
        size += len(piece)
        if size > asked["most"]:
            break
    answer = {"text": "".join(made)}
except MemoryError:
    made = None
    answer = {"error": "it needs more than %d MiB of memory" % (asked["memory"] >> 20)}
except Exception as exc:
    answer = {"error": "%s: %s" % (type(exc).__name__, str(exc)[:300])}
signal.setitimer(signal.ITIMER_PROF, 0)
json.dump(answer, sys.stdout)
"""
