"""The description of an object, ``{class, module_path, kwargs}``, read part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from rollforge.task import Document

__all__ = ["Description"]


@dataclass(frozen=True, slots=True)
class Description:
    """The parts of a description, which stays a plain dictionary.

    Anything that is not a description, such as an object or the name of a class, has no arguments. A description whose
    arguments are not a mapping has none either; :func:`~rollforge.build.build` reports it.

    Parameters
    ----------
    definition : object
        A description as it is written, or an object.

    Examples
    --------
    >>> one = Description({"class": "Fillna", "kwargs": {"fields_group": "feature", "fill_value": 0}})
    >>> one.kwargs["fields_group"], Description("Fillna").kwargs
    ('feature', {})
    >>> one.without("fill_value")
    {'class': 'Fillna', 'kwargs': {'fields_group': 'feature'}}
    >>> Description("Fillna").with_kwargs(fill_value=1)
    'Fillna'
    """

    definition: object

    @property
    def kwargs(self) -> Document:
        """The arguments; empty if there are none."""
        return self._given or {}

    def with_kwargs(self, **changes: object) -> Any:
        """Return a description with other values of some arguments; unchanged if it cannot have arguments."""
        return self._with({**self.kwargs, **changes})

    def without(self, *names: str) -> Any:
        """Return a description without some arguments; unchanged if it has none of them."""
        if not set(names) & set(self.kwargs):
            return self.definition
        return self._with({name: value for name, value in self.kwargs.items() if name not in names})

    @property
    def _given(self) -> Document | None:
        if not isinstance(self.definition, Mapping):
            return None
        given = self.definition.get("kwargs") or {}
        return given if isinstance(given, Mapping) else None

    def _with(self, kwargs: Document) -> Any:
        return self.definition if self._given is None else {**cast(Document, self.definition), "kwargs": kwargs}
