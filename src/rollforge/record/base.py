"""Base classes of records, which are computed from a run and saved in it."""

from __future__ import annotations

import builtins
import logging
from pprint import pformat
from typing import Any, ClassVar

from rollforge.errors import ArtifactNotFound, ConfigError
from rollforge.features.dataset import Dataset
from rollforge.models.base import Model
from rollforge.track.base import Recorder

__all__ = ["RESULTS", "ACRecordTemp", "ModelRecord", "RecordTemp"]

log = logging.getLogger(__name__)

RESULTS = "rollforge.results"
"""Logger for the results of records in readable form: tables and figures."""


class RecordTemp:
    """Base class of records.

    Parameters
    ----------
    recorder : Recorder
        The run.
    """

    artifact_path: ClassVar[str | None] = None
    """Folder of the record's artifacts."""
    depend_cls: ClassVar[type[RecordTemp] | None] = None
    """Record class whose artifacts this record reads."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder

    @property
    def recorder(self) -> Recorder:
        """The run.

        Raises
        ------
        ConfigError
            If the record has none.
        """
        if self._recorder is None:
            raise ConfigError(f"{type(self).__name__} has no recorder.")
        return self._recorder

    @classmethod
    def get_path(cls, path: str | None = None) -> str:
        """Return the path of an artifact of this record within the run."""
        return "/".join(part for part in (cls.artifact_path, path) if part)

    def save(self, **kwargs: Any) -> None:
        """Save objects in the record's folder."""
        self.recorder.save_objects(artifact_path=self.get_path() or None, **kwargs)

    def load(self, name: str, parents: bool = True) -> Any:
        """Return an artifact of this record, or of one that it depends on.

        Raises
        ------
        ArtifactNotFound
            If none of them has it.
        """
        try:
            return self.recorder.load_object(self.get_path(name))
        except ArtifactNotFound:
            if not parents or self.depend_cls is None:
                raise
            return self.depend_cls(recorder=self.recorder).load(name)

    @property
    def reports(self) -> bool:
        """Whether :meth:`report` logs anything."""
        return logging.getLogger(RESULTS).isEnabledFor(logging.INFO)

    def report(self, title: str, result: object) -> None:
        """Log a result under a title, through the logger :data:`RESULTS`."""
        if self.reports:
            logging.getLogger(RESULTS).info("%s\n%s", title, pformat(result))

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts that this record saves."""
        return []

    def check(self, include_self: bool = False, parents: bool = True) -> None:
        """Check that the artifacts that this record needs (or saves) exist.

        Raises
        ------
        ArtifactNotFound
            If one is missing; the message says which.
        """
        if include_self:
            there = set(self.recorder.list_artifacts(self.artifact_path))
            for name in self.list():
                if self.get_path(name) not in there:
                    raise ArtifactNotFound(f"Recorder {self.recorder.id} has no artifact {self.get_path(name)!r}.")
        if parents and self.depend_cls is not None:
            self.depend_cls(recorder=self.recorder).check(include_self=True)

    def generate(self, **kwargs: Any) -> Any:
        """Compute the record and save it."""
        raise NotImplementedError(f"{type(self).__name__} must implement generate().")


class ModelRecord(RecordTemp):
    """Base class of records that are computed from a fitted model and its dataset.

    Parameters
    ----------
    model : Model
        A fitted model.
    dataset : Dataset
        Its dataset.
    recorder : Recorder
        The run.
    """

    def __init__(
        self, model: Model | None = None, dataset: Dataset | None = None, recorder: Recorder | None = None
    ) -> None:
        super().__init__(recorder)
        self.model = model
        self.dataset = dataset


class ACRecordTemp(RecordTemp):
    """Base class of records that check their dependencies before they are computed.

    Parameters
    ----------
    recorder : Recorder
        The run.
    skip_existing : bool
        True computes nothing if the artifacts exist.
    """

    def __init__(self, recorder: Recorder | None = None, skip_existing: bool = False) -> None:
        super().__init__(recorder)
        self.skip_existing = skip_existing

    def generate(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Compute the record and save it.

        Raises
        ------
        ArtifactNotFound
            If an artifact that it depends on is missing (Qlib skips the record with a warning).
        """
        if self.skip_existing:
            try:
                self.check(include_self=True, parents=False)
            except ArtifactNotFound:
                log.debug("%s does not exist yet", type(self).__name__)
            else:
                return None
        self.check()
        made = self._generate(*args, **kwargs)
        if made:
            self.save(**made)
        return made

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object] | None:
        raise NotImplementedError(f"{type(self).__name__} must implement _generate().")
