"""How results are kept: as JSON where they are plain data, else as a pickle that is read through the allow-list."""

from __future__ import annotations

from typing import Any

from rollforge import trust
from rollforge.errors import ArtifactUnreadable, TaskNotSerializable, UntrustedPickle
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

    name = f"{type(result).__module__}.{type(result).__qualname__}"
    try:
        blob = cloudpickle.dumps(result)
    except Exception as exc:
        raise TaskNotSerializable(f"The result, a {name}, cannot be stored: {exc}. Return plain data.") from exc
    try:
        trust.loads(blob)
    except (UntrustedPickle, ArtifactUnreadable) as exc:  # better said now than when the work is lost
        raise TaskNotSerializable(
            f"The result, a {name}, could not be read back: {exc} Return plain data or a recorder, or name its type by "
            "rollforge.trust.allow()."
        ) from exc
    return None, blob


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
