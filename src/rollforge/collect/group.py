"""Groups: sort collected objects into groups, and reduce each group to one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rollforge.collect.ensemble import Ensemble, RollingEnsemble

__all__ = ["Group", "RollingGroup"]


class Group:
    """Groups a dict and reduces each group.

    Parameters
    ----------
    group_func : callable, optional
        ``{key: object} -> {group: {key: object}}``.
    ens : Ensemble or callable, optional
        ``{key: object} -> object``; None leaves the groups unchanged.

    Examples
    --------
    >>> parity = Group(lambda numbers: {p: {k: v for k, v in numbers.items() if k % 2 == p} for p in (0, 1)}, ens=sum)
    >>> parity.group({1: "a", 2: "b"})
    {0: {2: 'b'}, 1: {1: 'a'}}
    >>> Group(lambda numbers: {"all": numbers}, ens=lambda part: sum(part.values()))({1: 10, 2: 20})
    {'all': 30}
    """

    def __init__(
        self,
        group_func: Callable[..., dict[Any, Any]] | None = None,
        ens: Ensemble | Callable[..., Any] | None = None,
    ) -> None:
        self._group_func = group_func
        self._ens_func = ens

    def group(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Return the groups."""
        if self._group_func is None:
            raise NotImplementedError("This group has no group_func.")
        return self._group_func(*args, **kwargs)

    def reduce(self, *args: object, **kwargs: object) -> Any:
        """Return the result of reducing one group."""
        return self._ens_func(*args, **kwargs) if self._ens_func is not None else args[0]

    def __call__(self, ungrouped_dict: Mapping[Any, Any], n_jobs: int = 1, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Return ``{group: reduced}``; up to `n_jobs` groups are reduced in parallel."""
        jobs, groups = n_jobs, self.group(ungrouped_dict, *args, **kwargs)
        if jobs == 1 or len(groups) < 2:
            return {key: self.reduce(value) for key, value in groups.items()}
        with ThreadPoolExecutor(None if jobs < 0 else jobs) as executor:
            return dict(zip(groups, executor.map(self.reduce, groups.values()), strict=True))


class RollingGroup(Group):
    """Groups by the key without its last part, the window: ``{(A, B, window): obj} -> {(A, B): {window: obj}}``.

    Examples
    --------
    >>> RollingGroup(ens=None).group({("A", "B", 1): "x", ("A", "B", 2): "y", ("A", "C", 1): "z"})
    {('A', 'B'): {1: 'x', 2: 'y'}, ('A', 'C'): {1: 'z'}}
    """

    def __init__(self, ens: Ensemble | Callable[..., Any] | None = RollingEnsemble()) -> None:  # noqa: B008 - stateless
        super().__init__(ens=ens)

    def group(self, rolling_dict: Mapping[Any, Any], *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Return the groups.

        Raises
        ------
        TypeError
            If a key is not a tuple.
        """
        groups: dict[Any, Any] = {}
        for key, value in rolling_dict.items():
            if not isinstance(key, tuple):
                raise TypeError(f"Rolling keys must be tuples whose last element is the window, found {key!r}.")
            groups.setdefault(key[:-1], {})[key[-1]] = value
        return groups
