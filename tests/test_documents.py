"""What the documents say is so: links lead somewhere, the README's Python runs, the example plans."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

import rollforge
from rollforge.workflow import load_workflow, make_plan

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file of the project."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_public_name_is_there() -> None:
    """What ``rollforge`` offers by name can be imported by that name."""
    for name in rollforge.__all__:
        assert getattr(rollforge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Rollforge'"):
        rollforge.Rollforge  # noqa: B018


def example(folder: Path, market: Path) -> Path:
    """The example workflow on a small market, in few rounds."""
    document = yaml.safe_load((ROOT / "examples" / "rolling_lightgbm.yaml").read_text(encoding="utf-8"))
    document["rollforge"] |= {
        "data": str(market),
        "store": f"sqlite:///{folder}/tasks.db",
        "tracking": f"folder:{folder}/runs",
    }
    kwargs = document["task"]["dataset"]["kwargs"]
    kwargs["handler"]["kwargs"] |= {"start_time": "2022-01-03", "instruments": "all"}
    kwargs["segments"] = {
        "train": ["2022-01-03", "2022-10-31"],
        "valid": ["2022-11-01", "2022-12-30"],
        "test": ["2023-01-02", "2023-12-29"],
    }
    document["task"]["model"]["kwargs"] |= {"num_boost_round": 5, "learning_rate": 0.05}
    file = folder / "example.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


def test_the_example_plans(small_market: Path, tmp_path: Path) -> None:
    """Its windows are purged, so nothing leaks."""
    plan = make_plan(load_workflow(example(tmp_path, small_market)))
    assert len(plan.tasks) == 3
    assert plan.warnings == ()


@pytest.mark.slow
def test_the_readmes_python_runs(small_market: Path, tmp_path: Path) -> None:
    """Word for word, but for the workflow file and its main guard."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("examples/rolling_lightgbm.yaml", str(example(tmp_path, small_market)))
    script = tmp_path / "script.py"
    body = textwrap.indent(code + "print(prediction.shape[1], prediction.index.has_duplicates)\n", "    ")
    script.write_text(f'if __name__ == "__main__":\n{body}', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "False"]
