"""Base classes of models."""

from __future__ import annotations

import abc
import inspect
import weakref
from typing import TYPE_CHECKING, Any, Self

from rollforge.pickling import Serializable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BaseModel", "Model", "ModelFT", "Reweighter"]


_Given = tuple[tuple[object, ...], dict[str, object]]

_GIVEN: dict[int, tuple[weakref.ref[object], _Given]] = {}
"""The arguments with which each model was constructed, by its ``id``. They are not attributes, and so not saved with it."""


class BaseModel(Serializable, abc.ABC):
    """Base class of everything that predicts."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments")  # as without this method
        made = super().__new__(cls)
        key = id(made)
        given = tuple(map(_copied, args)), {name: _copied(value) for name, value in kwargs.items()}
        _GIVEN[key] = weakref.ref(made, lambda _: _GIVEN.pop(key, None)), given
        return made

    # Without a constructor there are no arguments, which inspect.signature() would otherwise read from the method above.
    __new__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)]
    )

    @abc.abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return predictions."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return :meth:`predict`."""
        return self.predict(*args, **kwargs)


class Model(BaseModel):
    """Base class of models that are fitted on the train segment of a dataset and predict other segments."""

    def fit(self, dataset: Any, *args: Any, **kwargs: Any) -> object:
        """Fit the model. Only callers of a certain class use what is returned."""
        raise NotImplementedError(f"{type(self).__name__} must implement fit().")

    @abc.abstractmethod
    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series | pd.DataFrame:
        """Return the scores of a segment, index (datetime, instrument): a series, or a frame of several outputs."""


class ModelFT(Model):
    """Base class of models that support incremental training."""

    @abc.abstractmethod
    def finetune(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        """Train the fitted model further."""


class Reweighter(abc.ABC):
    """Base class of reweighters, which assign a weight to each sample."""

    @abc.abstractmethod
    def reweight(self, data: object) -> Any:
        """Return a weight for each row of `data`, a frame with features and labels."""


def given_arguments(model: BaseModel) -> _Given | None:
    """Return the positional and the other arguments with which a model was constructed.

    They are none for a model that was copied or read from a file, and ``None`` if its class does not record them.
    """
    reference, given = _GIVEN.get(id(model), (None, None))
    return given if reference is not None and reference() is model else None


def _copied(value: object) -> object:
    """Return a copy of plain lists and mappings, which can be changed after the model was constructed."""
    if type(value) is list:
        return [_copied(one) for one in value]
    if type(value) is tuple:
        return tuple(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(one) for key, one in value.items()}
    return value
