"""The wheel and the source archive contain the license, the type information and every file of the package."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"


def built(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or a source archive, as pip does."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split()[-1]


def sources() -> set[str]:
    """Return the source files of the package."""
    listed = [p for p in (ROOT / "src").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {p.relative_to(ROOT / "src").as_posix() for p in listed}


@pytest.mark.slow
def test_wheel_and_source_archive_are_complete(tmp_path: Path) -> None:
    """A wheel built from the source archive is as complete as one built from the repository."""
    archive = built("sdist", ROOT, tmp_path)
    with tarfile.open(archive) as packed:
        names = {n.partition("/")[2] for n in packed.getnames()}
        packed.extractall(tmp_path / "unpacked", filter="data")
    for needed in (
        "LICENSE",
        "NOTICE",
        "README.md",
        "pyproject.toml",
        "CHANGELOG.md",
        "src/rollforge/py.typed",
        "tests/conftest.py",
    ):
        assert needed in names
    unpacked = next((tmp_path / "unpacked").iterdir())
    for source, folder in ((ROOT, tmp_path / "here"), (unpacked, tmp_path / "from_archive")):
        with zipfile.ZipFile(built("wheel", source, folder)) as wheel:
            inside = set(wheel.namelist())
            about = next(n for n in inside if n.endswith(".dist-info/METADATA"))
            text = wheel.read(about).decode("utf-8")
            license_file = next(n for n in inside if n.endswith("/LICENSE"))
            assert wheel.read(license_file) == (ROOT / "LICENSE").read_bytes()
        assert sources() <= inside
        assert "rollforge/py.typed" in inside
        assert "License-Expression: MIT" in text
        assert "License-File: LICENSE" in text
        assert "License-File: NOTICE" in text
        assert "Requires-Python: >=3.11" in text
        assert not any(n.startswith(("tests/", "benchmarks/")) for n in inside)
