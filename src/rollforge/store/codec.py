"""How results are kept: as JSON where they are plain data, else as a pickle that is read through the allow-list."""

from __future__ import annotations

from typing import Any

from rollforge import trust
from rollforge.errors import TaskNotSerializable
from rollforge.task import decode, encode

__all__ = ["decode_result", "encode_result"]


def encode_result(result: Any) -> tuple[str | None, bytes | None]:
    """Return a result as JSON, or as a pickle where it is not plain data: one of the two is None.

    Raises
    ------
    TaskNotSerializable
        When it can be neither.
    """
    try:
        return encode(result), None
    except TaskNotSerializable:
        pass
    import cloudpickle

    try:
        return None, cloudpickle.dumps(result)
    except Exception as exc:  # noqa: BLE001 - any type may refuse to be pickled in a way of its own
        raise TaskNotSerializable(
            f"The result, a {type(result).__name__}, cannot be stored: {exc}. Return plain data or a recorder."
        ) from exc


def decode_result(text: str | None, blob: bytes | None) -> Any:
    """Return what :func:`encode_result` was given.

    Raises
    ------
    UntrustedPickle
        When the pickle names a type that is not allowed; nothing of it has run.
    """
    if blob is not None:
        return trust.loads(blob)
    return None if text is None else decode(text)
