"""How results are kept: as JSON where they are plain data, else as a pickle that is read through the allow-list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollforge import safe_pickle
from rollforge.errors import ArtifactUnreadable, TaskNotSerializable, UntrustedPickle
from rollforge.task import decode, encode

__all__ = ["Encoded", "decode_result", "encode_result"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A result as it is kept: one of the two is None. Stores take it wherever they take a result."""

    plain: str | None
    blob: bytes | None = None


def encode_result(result: Any) -> Encoded:
    """Return a result as JSON, or as a pickle where it is not plain data; what is encoded already stays as it is.

    Raises
    ------
    TaskNotSerializable
        When it can be neither.

    Examples
    --------
    >>> encode_result({"ic": 0.05})
    Encoded(plain='{"ic":0.05}', blob=None)
    """
    if isinstance(result, Encoded):
        return result
    try:
        return Encoded(encode(result))
    except TaskNotSerializable:
        pass
    import cloudpickle

    name = f"{type(result).__module__}.{type(result).__qualname__}"
    try:
        blob = cloudpickle.dumps(result)
    except Exception as exc:
        raise TaskNotSerializable(f"The result, a {name}, cannot be stored: {exc}. Return plain data.") from exc
    try:
        safe_pickle.loads(blob)
    except (UntrustedPickle, ArtifactUnreadable) as exc:  # better said now than when the work is lost
        raise TaskNotSerializable(
            f"The result, a {name}, could not be read back: {exc} Return plain data or a recorder, or name its type by "
            "rollforge.safe_pickle.allow()."
        ) from exc
    return Encoded(None, blob)


def decode_result(kept: Encoded | None) -> Any:
    """Return what :func:`encode_result` was given.

    Raises
    ------
    UntrustedPickle
        When the pickle names a type that is not allowed; nothing of it has run.
    """
    if kept is None:
        return None
    if kept.blob is not None:
        return safe_pickle.loads(kept.blob)
    return None if kept.plain is None else decode(kept.plain)
