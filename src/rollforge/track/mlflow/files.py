"""Artifacts in a local folder, on a server or in a bucket."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rollforge.confidential import mask_secrets
from rollforge.errors import TrackingUnavailable
from rollforge.track.artifact_files import inside
from rollforge.track.mlflow.library import first_line, quiet

__all__ = ["RemoteFiles", "local_folder"]


def local_folder(uri: str) -> Path | None:
    """Return the local folder of an artifact address; None if the artifacts are on a server or in a bucket."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return Path(uri) if ":" not in uri.partition("/")[0] else None


class RemoteFiles:
    """Artifacts on a server or in a bucket, which MLflow uploads and downloads."""

    folder: Path | None = None

    def __init__(self, uri: str, tracking_uri: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.uri = uri
        self._repository: Any = get_artifact_repository(uri, tracking_uri=tracking_uri)
        self._fetched = Path(tempfile.mkdtemp(prefix="rollforge-"))
        weakref.finalize(self, shutil.rmtree, self._fetched, ignore_errors=True)

    @contextlib.contextmanager
    def draft(self, path: str) -> Iterator[Path]:
        folder, _, name = inside(path).rpartition("/")
        with tempfile.TemporaryDirectory(prefix="rollforge-") as place:
            yield Path(place) / name
            with self._translating(path):
                self._repository.log_artifact(str(Path(place) / name), folder or None)

    def list(self, folder: str = "") -> list[str]:
        with self._translating(folder):
            found = self._repository.list_artifacts(inside(folder) if folder else None)
        return sorted(Path(f.path).name + ("/" if f.is_dir else "") for f in found)

    def get(self, path: str) -> Path | None:
        folder, _, name = inside(path).rpartition("/")
        if name not in self.list(folder):
            return None
        with self._translating(path):
            return Path(self._repository.download_artifacts(path, dst_path=str(self._fetched)))

    def remove(self, path: str) -> None:
        with self._translating(path):
            self._repository.delete_artifacts(inside(path))

    @contextlib.contextmanager
    def _translating(self, path: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            with quiet():
                yield
        except (MlflowException, OSError) as exc:
            raise TrackingUnavailable(f"The artifact {path!r} in {mask_secrets(self.uri)}: {first_line(exc)}") from exc
