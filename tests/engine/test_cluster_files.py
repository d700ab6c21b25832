"""The files of examples/cluster: programs that read such files accept them, and they agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rollforge.workflow import load_workflow

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"


def test_docker_compose_accepts_the_file() -> None:
    """Debian's docker-compose, which also fills in the password and refuses to go on without one."""
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose: apt-get install docker-compose")
    command = ["docker-compose", "--file", FOLDER / "docker-compose.yaml", "--profile", "tools", "config"]
    environment = {k: v for k, v in os.environ.items() if k != "POSTGRES_PASSWORD"}
    without = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert without.returncode != 0
    assert "set the password of the pool" in without.stderr
    done = subprocess.run(command, env=environment | {"POSTGRES_PASSWORD": "pw"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert sorted(services) == ["mlflow", "postgres", "submit", "worker-1", "worker-2"]
    for name in ("submit", "worker-1", "worker-2"):
        assert services[name]["environment"]["ROLLFORGE_STORE"] == "postgresql://rollforge:pw@postgres/rollforge"
        assert Path(services[name]["build"]["context"], services[name]["build"]["dockerfile"]) == FOLDER / "Dockerfile"


def test_the_workflow_of_the_containers_can_be_planned(small_market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses of data, pool and runs come from the environment."""
    monkeypatch.setenv("ROLLFORGE_DATA", str(small_market))
    monkeypatch.setenv("ROLLFORGE_STORE", "postgresql://rollforge:pw@postgres/rollforge")
    monkeypatch.setenv("ROLLFORGE_TRACKING", "http://mlflow:5000")
    workflow = load_workflow(FOLDER / "workflow.yaml")
    assert workflow.session.store_uri == "postgresql://rollforge:pw@postgres/rollforge"
    assert workflow.session.tracking_uri == "http://mlflow:5000"
    assert workflow.experiment_name == re.findall(r"POOL:-(\w+)", (FOLDER / "docker-compose.yaml").read_text())[0]


def test_the_manifest_of_kuberay_has_one_image_and_its_version_of_ray() -> None:
    job, claim = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    (image,) = {c["image"] for group in groups for c in group["template"]["spec"]["containers"]}
    assert image
    assert f'"ray[default]=={cluster["rayVersion"]}"' in (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    volumes = cluster["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volumes[0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
