"""The example that ``--help`` of each command shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import typer
from typer.models import CommandInfo

__all__ = ["EXAMPLES", "add_examples", "commands"]

EXAMPLES: Mapping[str, str] = {
    "new": "new my_project --template frame",
    "plan": "plan workflow.yaml --limit 5",
    "check": "check workflow.yaml --instruments 50",
    "run": "run workflow.yaml --jobs 4 --memory 8G",
    "schema": "schema --output workflow.schema.json",
    "submit": "submit workflow.yaml --store postgresql://host/database --tracking http://host:5000",
    "collect": "collect my_experiment --allow-gaps",
    "report": "report my_experiment --output results/today",
    "worker": "worker -t my_experiment --jobs 8 --timeout 3600",
    "dashboard": "dashboard --store sqlite:///tasks.db",
    "data demo": "data demo market --instruments 100 --years 4",
    "data import": "data import prices.csv market --column 'Trade Date=datetime'",
    "data append": "data append 2024-01-02.csv market --dry-run",
    "data universe": "data universe csi300 members.csv --data market",
    "pool list": "pool --store sqlite:///tasks.db list",
    "pool task-stat": "pool -t my_experiment task-stat --json",
    "pool wait": "pool -t my_experiment wait",
    "pool query": """pool -t my_experiment query '{"status": "failed"}'""",
    "pool logs": "pool -t my_experiment logs 1ddfde94",
    "pool attempts": "pool -t my_experiment attempts 1ddfde94",
    "pool submissions": "pool -t my_experiment submissions",
    "pool cancel": """pool -t my_experiment cancel '{"status": "waiting"}'""",
    "pool pause": "pool -t my_experiment pause",
    "pool resume": "pool -t my_experiment resume",
    "pool watch": "pool -t my_experiment watch",
    "pool copy": "pool -t my_experiment copy sqlite:///tasks.db postgresql://host/database",
    "pool retry": "pool -t my_experiment retry",
    "pool reset-waiting": "pool -t my_experiment reset-waiting",
    "pool reset-status": "pool -t my_experiment reset-status waiting",
    "pool prioritize": "pool -t my_experiment prioritize 1ddfde94 10",
    "pool remove": """pool -t my_experiment remove '{"status": "failed"}'""",
    "track list": "track list sqlite:///mlflow.db",
    "track copy": "track copy sqlite:///mlflow.db http://host:5000",
    "serve init": "serve init workflow.yaml --begin 2024-01-02",
    "serve run": "serve run --until 2024-01-02",
    "serve check": "serve --service my_experiment check",
    "serve correct": "serve correct 2024-01-02 --reason 'a wrong price'",
    "serve status": "serve --service my_experiment status --json",
    "serve history": "serve history --day 2024-01-02",
    "serve signals": "serve signals 2024-01-02",
    "serve promote": "serve promote a563548c881c49509b46d3db4502b39a --from 2024-01-03",
    "serve rollback": "serve rollback",
    "serve watch": "serve watch --http 8765 --interval 60",
    "serve http": "serve http --port 8765",
    "cache list": "cache list",
    "cache clear": "cache clear",
}
"""Command -> a command line without the name of the program."""


def commands(app: typer.Typer, above: tuple[str, ...] = ()) -> Iterator[tuple[str, CommandInfo]]:
    """Yield the name of each command, such as ``pool task-stat``, and what Typer knows of it."""
    for info in app.registered_commands:
        function = getattr(info.callback, "__name__", "")
        yield " ".join((*above, info.name or function.rstrip("_").replace("_", "-"))), info
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from commands(group.typer_instance, (*above, str(group.name)))


def add_examples(app: typer.Typer) -> None:
    """Add its example to the help of each command."""
    for name, info in commands(app):
        if name in EXAMPLES:
            info.epilog = f"Example: rollforge {EXAMPLES[name]}"
