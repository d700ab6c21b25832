"""Encoding of results: JSON for plain data, else a pickle that is loaded through the allow-list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollforge import safe_pickle, trust
from rollforge.errors import ArtifactUnreadable, ConfigError, MissingCode, TaskNotSerializable, UntrustedPickle
from rollforge.limits import LIMITS
from rollforge.store.base import ABOUT
from rollforge.task import check_size, decode, encode, import_reference

__all__ = [
    "EncodedResult",
    "decode_definition",
    "decode_result",
    "encode_result",
    "read_definition",
    "read_submission",
    "tasks_of_info",
]


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """An encoded result; one of the two fields is None. Stores accept it wherever they accept a result."""

    plain: str | None
    blob: bytes | None = None


_LARGE = "The result, which should be saved in a recorder and not in the pool,"


def encode_result(result: object) -> EncodedResult:
    """Return a result encoded as JSON, or as a pickle if it is not plain data. An encoded result is returned unchanged.

    Raises
    ------
    TaskNotSerializable
        If it cannot be encoded, or is too large.

    Examples
    --------
    >>> encode_result({"ic": 0.05})
    EncodedResult(plain='{"ic":0.05}', blob=None)
    """
    if isinstance(result, EncodedResult):
        return result
    limit = LIMITS["result_size"]
    check_size(result, limit, _LARGE)
    try:
        return EncodedResult(encode(result))
    except TaskNotSerializable:
        pass
    import cloudpickle

    name = f"{type(result).__module__}.{type(result).__qualname__}"
    try:
        blob = cloudpickle.dumps(result)
    except Exception as exc:
        raise TaskNotSerializable(f"The result, a {name}, cannot be stored: {exc}. Return plain data.") from exc
    limit.check(len(blob), f"{_LARGE}: it holds", error=TaskNotSerializable)
    try:
        safe_pickle.loads(blob)
    except (UntrustedPickle, ArtifactUnreadable) as exc:  # fail now, not when the result is needed
        raise TaskNotSerializable(
            f"The result, a {name}, could not be read back: {exc} Return plain data or a recorder, or name its type by "
            "rollforge.safe_pickle.allow()."
        ) from exc
    return EncodedResult(None, blob)


def decode_result(kept: EncodedResult | None) -> Any:
    """Return the result that :func:`encode_result` encoded.

    Raises
    ------
    UntrustedPickle
        If the pickle names a type that is not allowed; nothing in it has been executed.
    ArtifactUnreadable
        If the encoded result is damaged.
    """
    if kept is None:
        return None
    try:
        if kept.blob is not None:
            return safe_pickle.loads(kept.blob)
        return None if kept.plain is None else decode(kept.plain)
    except (ConfigError, TypeError, ValueError) as exc:
        if isinstance(exc, (UntrustedPickle, ArtifactUnreadable)):
            raise
        raise ArtifactUnreadable(f"the result is damaged: {exc}") from exc


def decode_definition(text: str) -> object:
    """Return a definition as passed to a task function, with the classes and functions that it refers to imported.

    Call this only where the task runs, because imports execute code.

    Raises
    ------
    MissingCode
        If a module or class that it refers to is missing on this machine or not allowed.
    ConfigError
        If the text cannot be decoded.
    """

    def resolve(module: str, name: str) -> object:
        trust.check_reference_import(module, name)
        try:
            found = import_reference(module, name)
            trust.check_reference(found, module, name)
            return found
        except (ImportError, AttributeError) as exc:
            raise MissingCode(f"The task refers to {module}:{name}, which cannot be imported: {exc}.") from exc

    try:
        return decode(text, resolve=resolve)
    except ConfigError:
        raise
    except Exception as exc:
        raise ConfigError(f"The definition cannot be decoded: {type(exc).__name__}: {exc}.") from exc


def read_definition(text: str) -> tuple[Any, str | None]:
    """Return a definition for display, without importing anything, and an error message if it is damaged."""
    try:
        definition = decode(text)
    except ConfigError as exc:
        return {}, f"The definition cannot be decoded: {str(exc).rstrip('.')}."
    except Exception as exc:  # noqa: BLE001 - damaged data can raise anything
        return {}, f"The definition cannot be decoded: {type(exc).__name__}: {exc}."
    if not isinstance(definition, dict):
        return {}, f"The definition is of type {type(definition).__name__}, not a mapping."
    return definition, None


def tasks_of_info(text: object) -> list[str]:
    """Return the ids of the tasks that stored information is about, if it is not about a submission; see `ABOUT`."""
    about = read_submission(text).get(ABOUT)
    return [one for one in about if isinstance(one, str)] if isinstance(about, list) else []


def read_submission(text: object) -> dict[str, Any]:
    """Return what is stored about a submission; empty if it is damaged, so that other submissions can still be read."""
    return read_definition(text)[0] if isinstance(text, str) else {}
