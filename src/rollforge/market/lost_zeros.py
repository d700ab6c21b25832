"""Codes of instruments that have lost their leading zeros, as in tables of numbers: 000001 becomes 1."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from rollforge.errors import first_few

__all__ = ["lost_zeros_note", "respelled", "short_codes_note", "with_lost_zeros"]

_LONGEST = 10
"""Digits of the longest code that is looked for."""
_OF_EXCHANGES = (5, 6)
"""Numbers of digits of the codes of exchanges that number their instruments: Hong Kong; Shanghai, Shenzhen and Seoul."""


def with_lost_zeros(code: str, is_known: Callable[[str], bool]) -> str | None:
    """Return the known code that begins with zeros and otherwise equals `code`; None if there is none, or several.

    Examples
    --------
    >>> with_lost_zeros("1", {"000001", "600000"}.__contains__)
    '000001'
    """
    if not (code.isascii() and code.isdigit()):
        return None
    found = [longer for n in range(len(code) + 1, _LONGEST + 1) if is_known(longer := code.zfill(n))]
    return found[0] if len(found) == 1 else None


def respelled(codes: Collection[str], is_known: Callable[[str], bool]) -> dict[str, str]:
    """Map each unknown code of a table that has lost its zeros to the known one; not if the table has that one, too.

    Examples
    --------
    >>> respelled(["1", "2", "000002", "600000"], {"000001", "000002", "600000"}.__contains__)
    {'1': '000001'}
    """
    found = {code: with_lost_zeros(code, is_known) for code in codes if not is_known(code)}
    return {code: longer for code, longer in found.items() if longer is not None and longer not in codes}


def lost_zeros_note(spelled: Mapping[str, str]) -> str:
    """Return a note on codes and those that they were read as."""
    what = (
        "1 code without leading zeros was" if len(spelled) == 1 else f"{len(spelled)} codes without leading zeros were"
    )
    return f"{what} read as in the folder: {first_few([f'{code} as {longer}' for code, longer in spelled.items()])}"


def short_codes_note(codes: Sequence[str]) -> list[str]:
    """Return a note if some codes are numbers that have probably lost zeros: exchanges use the same length for all."""
    numbers = sorted((code for code in codes if code.isascii() and code.isdigit()), key=len)
    if not numbers or any(code.startswith("0") for code in numbers):
        return []  # zeros are kept: in Taiwan, 0050 and 006208 are codes
    if len(numbers[0]) == len(numbers[-1]) or len(numbers[-1]) not in _OF_EXCHANGES:
        return []
    return [
        f"the codes {numbers[0]} and {numbers[-1]} have different lengths: if codes had leading zeros, such as "
        f"{numbers[0].zfill(len(numbers[-1]))}, the table has lost them. Write them as text"
    ]
