"""Both trackers keep what the suite promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.testing.track import TrackerSuite


class TestFolder(TrackerSuite):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"folder:{tmp_path}/runs"


class TestMLflow(TrackerSuite):
    @pytest.fixture
    def uri(self, tmp_path: Path, mlflow_template: Path) -> str:
        (tmp_path / "tracking").mkdir()
        (tmp_path / "tracking" / "mlflow.db").write_bytes(mlflow_template.read_bytes())
        return f"sqlite:///{tmp_path}/tracking/mlflow.db"
