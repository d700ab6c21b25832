"""Common parts of the gradient boosting models of all libraries: parameters, number of threads, metrics of each
round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from rollforge.errors import ModelError
from rollforge.models.base import Model
from rollforge.models.parameters import threads_of
from rollforge.session import current_session
from rollforge.task import Definition

log = logging.getLogger(__name__)

Curves = dict[str, dict[str, list[float]]]  # segment -> metric -> value after each round

_WARNED: set[tuple[type, str]] = set()
"""Parameters about which a warning was logged."""


class Boosting(Model):
    """Base class of gradient boosting models.

    Parameters
    ----------
    params : mapping
        The library's parameters. A number of threads is capped to the threads of the session.

    Raises
    ------
    ConfigError
        If the number of threads is not a whole number.
    """

    THREAD_NAMES: ClassVar[tuple[str, ...]]
    """The library's names for the number of threads."""
    _capped: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, object]) -> None:
        threads_of(params, self.THREAD_NAMES)
        self.params: Definition = dict(params)
        self.model: Any = None
        """The library's model; None before training."""
        self.on_round: Callable[[int, float], None] | None = None
        """Called in training with the number of a round and the loss on the valid segment; it stops the training by raising an
        exception. Not saved."""
        self.fit_seconds = 0.0
        """Seconds spent in the library's training function."""
        self._curves: dict[str, list[float]] = {}

    def unused_parameters(self) -> dict[str, str]:
        """Return the parameters that the library ignores, each with the name that was probably meant, as a sentence or ``""``.

        Libraries that raise an error for such a parameter, or cannot say which they know, ignore none.
        """
        return {}

    def _warn_of_unused(self) -> None:
        """Log once in a process each parameter that the library ignores."""
        for name, hint in self.unused_parameters().items():
            if (type(self), name) not in _WARNED:
                _WARNED.add((type(self), name))
                log.warning(
                    "%s ignores the parameter %r: its library does not use it.%s", type(self).__name__, name, hint
                )

    def training_metrics(self) -> dict[str, list[float]]:
        """Return each metric of each segment by round: ``{"l2.train": […], "l2.valid": […]}``."""
        return self._curves

    def _set_curves(self, results: Curves, evals_result: dict[str, list[float]] | None) -> None:
        """Record the metrics of a training. `evals_result` receives the first metric of each segment."""
        self._curves = {f"{m}.{name}": list(v) for name, metrics in results.items() for m, v in metrics.items()}
        if evals_result is not None:
            evals_result.update({name: list(next(iter(metrics.values()))) for name, metrics in results.items()})

    def _parameters_and_threads(self) -> tuple[dict[str, object], int]:
        """Return the parameters without the number of threads, and this number, capped to that of the session."""
        allowed = current_session().threads
        params = {k: v for k, v in self.params.items() if k not in self.THREAD_NAMES}
        named = threads_of(self.params, self.THREAD_NAMES)
        wanted = allowed if named is None or named <= 0 else named
        if wanted > allowed and not Boosting._capped:
            Boosting._capped = True
            log.info("%s=%d is capped to the %d of this process", self.THREAD_NAMES[0], wanted, allowed)
        return params, min(wanted, allowed)

    def _fitted(self) -> Any:
        """Return the library's model.

        Raises
        ------
        ModelError
            If it is not fitted yet.
        """
        if self.model is None:
            raise ModelError(f"{type(self).__name__} is not fitted yet.")
        return self.model
