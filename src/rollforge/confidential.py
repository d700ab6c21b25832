"""Masking secrets in text, and creating files that only their owner can read."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

__all__ = [
    "is_secret_name",
    "mask_error",
    "mask_secrets",
    "private_file",
    "private_folder",
    "remember_secret",
    "without_secrets",
]

_MASK = "***"
_MAX_PASSWORD = 300
_SHORT = 200
"""Number of characters up to which masked text is kept."""
_SECRET_WORDS = (
    r"password|passwd|passphrase|(?<![A-Za-z])pass(?![A-Za-z])|pwd|secret|token(?!s|iz)|credentials?|"
    r"shared[-_]?access[-_]?signature|(?:api|access|private|account|shared|subscription|storage|auth|master|encryption|consumer)[-_]?key"
)
# All repetitions are bounded: text from others is masked too, and must not cause quadratic searches.
_TEXT = r"'(?:[^'\\]|\\.){0,9999}'|\"(?:[^\"\\]|\\.){0,9999}\""
_NAME = rf"(?:{_SECRET_WORDS})[\w.-]{{0,64}}"
_QUOTED_TEXT = rf"\w{{0,32}}\(?(?:{_TEXT}){{1,9}}"
"""A string as Python writes it, also as bytes or as the argument of a type. In SQL, adjacent strings are one string."""
_IN_QUERY = re.compile(
    rf"(?i)(?P<name>[?&;#](?:[\w.%-]{{0,64}}?(?:{_NAME}|signature)|(?:[\w.%-]{{0,64}}[_.-])?key|auth|sig|jwt|sas)=)[^&;\s'\"<>]+"
)
_IN_DSN = re.compile(
    rf"(?i)(?P<name>{_NAME}['\"]?\s*(?:=>|=(?!>))\s*)(?!\*{{3}})(?:{_QUOTED_TEXT}|['\"]?(?:\\.|[^\s'\"])+)"
)
_IN_MAPPING = re.compile(
    rf"(?i)(?P<name>{_NAME}['\"]?\s*:[ \t]*)(?:{_QUOTED_TEXT}|(?!//)['\"]?[^\s,}}#'\"]+[^\n,}}#]*)"
)
_IN_BLOCK = re.compile(
    rf"(?i)(?P<name>{_NAME}['\"]?[ \t]*:[ \t]*)(?:[|>][-+0-9]{{0,2}}[ \t]*)?\n(?P<gap>[ \t]+)\S[^\n]*(?:\n(?P=gap)[^\n]+){{0,99}}"
)
"""A value below its key in YAML."""
_IN_PAIR = re.compile(rf"(?i)(?P<name>(?P<mark>['\"])(?:[\w.-]{{0,64}}?){_NAME}(?P=mark),\s*){_QUOTED_TEXT}")
_IN_ELEMENT = re.compile(rf"(?i)(?P<name><[\w:.-]{{0,64}}?{_NAME}>)[^<]{{1,1000}}(?=</)")
_IN_WORDS = re.compile(
    rf"(?i)(?P<name>\b(?:(?:password|passphrase)|identified[ \t]+by)[ \t]+)(?:{_TEXT})|(?P<login>\blogin\s+\S+\s+password\s+)\S+"
)
"""SQL and ``.netrc``."""
_IN_OPTION = re.compile(rf"(?i)(?P<name>(?<!\S)--(?:[\w-]{{0,64}}?{_NAME})[ \t]+)(?!-)(?:{_TEXT}|\S+)")
_WITHOUT_SLASHES = re.compile(
    r"(?i)(?P<name>(?<![\w.+@:/-])(?:(?:postgres(?:ql)?|mongodb(?:\+srv)?|https?):/?)?[A-Za-z_][\w.+%-]{0,64}:)"
    r"[^\s@/:'\"<>,;]{1,200}(?=@[\w\[][\w.\]-]{0,250}(?::\d|/))"
)
"""An address without ``//`` or without its scheme: ``user:password@host:5432`` or ``user:password@host/name``."""
_HEADER = re.compile(r"(?i)\b(?P<name>authorization['\"]?\s*[:=]\s*['\"]?(?:\w{1,20}[ \t]+)?)[^\s'\"]+")
_COOKIE = re.compile(r"(?i)(?P<name>\b(?:set-)?cookie['\"]?\s*:[ \t]*)[^\n]+")
_USER_OPTION = re.compile(r"(?P<name>(?<!\S)(?:-u|--user)[ \t=]+[^\s:]{1,64}:)\S+")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[opsur]_|github_pat_|glpat-|hf_|xox[abprs]-|sk-)[\w-]{16,255}"
    r"|(?<![A-Za-z0-9])eyJ[\w-]{8,9999}\.[\w-]{4,9999}\.[\w-]{4,9999}"
)
"""Tokens recognized by their prefix: GitHub, GitLab, Hugging Face, Slack and others, and JSON web tokens."""
_CODED_NAME = re.compile(r"([?&;#])([\w.-]{0,64}%[\w.%-]{1,64})=[^&;\s'\"<>]+")
_WORD = re.compile(r"[^\s'\"<>]+")
_MAX_DECODINGS = 3
"""Maximum number of nested percent-encodings."""
_BEARER = re.compile(r"(?i)\b(?P<name>bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_known: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Return whether a variable or key with that name probably contains a secret.

    Examples
    --------
    >>> [is_secret_name(n) for n in ("MY_DB_PASSWORD", "GITHUB_TOKEN", "apiKey", "tokens_per_day", "HOME")]
    [True, True, True, False, False]
    """
    return bool(re.search(rf"(?i)(?:{_SECRET_WORDS})(?:$|[-_.\d])", name))


def remember_secret(value: str) -> None:
    """Mask `value` in all text from now on. Strings of three characters or fewer are too common and are ignored."""
    if len(value) > 3:  # also as written in an address, in JSON, and in a Python repr
        _known.update((value, quote(value, safe=""), quote(value), quote_plus(value)))
        _known.update(form for form in (json.dumps(value)[1:-1], ascii(value)[1:-1]))


def mask_secrets(text: str) -> str:
    """Return `text` with everything that looks like a password or token masked, for logs, errors and pages.

    Masks the user information of addresses; values in addresses, connection strings and mappings if the key names a
    secret; ``Bearer`` tokens; and every value passed to :func:`remember_secret`.

    Examples
    --------
    >>> mask_secrets("postgresql://ann:s3c@ret@db/tasks?sslpassword=x")
    'postgresql://ann:***@db/tasks?sslpassword=***'
    >>> mask_secrets("host=db password='a b' user=ann")
    'host=db password=*** user=ann'
    >>> mask_secrets("http://127.0.0.1:5000 is not reachable")
    'http://127.0.0.1:5000 is not reachable'
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    text = _mask_short(text) if len(text) <= _SHORT else _mask_plain(text)
    return _WORD.sub(_mask_coded, text) if "%" in text else text


@functools.lru_cache(maxsize=4096)
def _mask_short(text: str) -> str:
    # A page repeats the names of models and workers thousands of times.
    return _mask_plain(text)


def _mask_plain(text: str) -> str:
    text = _mask_user_info(text)
    if "%" in text:
        text = _CODED_NAME.sub(_mask_coded_name, text)
    text = _IN_BLOCK.sub(rf"\g<name>{_MASK}", text)
    text = _IN_WORDS.sub(lambda found: f"{found['name'] or found['login']}{_MASK}", text)
    for pattern in (
        _IN_QUERY,
        _IN_DSN,
        _IN_PAIR,
        _IN_ELEMENT,
        _IN_MAPPING,
        _IN_OPTION,
        _USER_OPTION,
        _WITHOUT_SLASHES,
        _COOKIE,
    ):
        text = pattern.sub(rf"\g<name>{_MASK}", text)
    text = _BEARER.sub(rf"\g<name> {_MASK}", _TOKEN.sub(_MASK, text))
    return _HEADER.sub(rf"\g<name>{_MASK}", text)


def _mask_coded_name(found: re.Match[str]) -> str:
    name = f"{found[1]}{unquote(found[2])}="
    return f"{name}{_MASK}" if _IN_QUERY.fullmatch(f"{name}x") else found[0]


def _mask_coded(found: re.Match[str]) -> str:
    """Return a percent-encoded word, decoded and masked if the decoded text contains a secret."""
    word = plain = found[0]
    for _ in range(_MAX_DECODINGS):
        if "%" not in plain or (decoded := unquote(plain)) == plain:
            break
        plain = decoded
        masked = _mask_plain(plain)
        if masked != plain:
            return masked
    return word


_QUOTED = re.compile(r"(?P<mark>['\"])(?P<said>[^'\"]{1,1000})(?P=mark)")


def mask_error(text: str, address: str) -> str:
    """Return a driver's message about an address, with secrets masked.

    The driver may have split the address at another place and quote part of the password as the host or the port.

    Examples
    --------
    >>> mask_error("failed to resolve host 'word@db'", "postgresql://ann:pass@word@db/tasks")
    "failed to resolve host '***'"
    >>> mask_error("failed to resolve host 'db'", "postgresql://ann:pass@word@db/tasks")
    "failed to resolve host 'db'"
    """
    for form in dict.fromkeys((address, unquote(address))):
        text = _mask_parts(text, form, *_secret_part(form))
    return mask_secrets(text)


def _mask_parts(text: str, address: str, begin: int, end: int) -> str:
    def masked(found: re.Match[str]) -> str:
        places = [place.start() for place in re.finditer(re.escape(found["said"]), address)]
        # Text that also occurs in the public parts of the address, such as the user name, reveals nothing.
        if (
            "://" not in found["said"]
            and places
            and all(place < end and place + len(found["said"]) > begin for place in places)
        ):
            return f"{found['mark']}{_MASK}{found['mark']}"
        return found[0]

    return _QUOTED.sub(masked, text) if begin < end else text


def _secret_part(address: str) -> tuple[int, int]:
    """Return the start and end of an address's password; in a connection string, from the password to the end."""
    scheme, separator, _ = address.partition("://")
    if not separator:
        found = _IN_DSN.search(address)
        return (found.end("name"), len(address)) if found else (0, 0)
    start, end = len(scheme) + len(separator), address.rfind("@")
    colon = address.find(":", start, max(end, 0))
    return (colon + 1 if colon >= 0 else start), end


def without_secrets(address: str) -> str:
    """Return an address without user, password and secret parameters, so that others may see it.

    Examples
    --------
    >>> without_secrets("https://ann:s3cret@host:5000/path?token=x&page=2")
    'https://host:5000/path?page=2'
    >>> without_secrets("sqlite:////home/ann/runs.db"), without_secrets("folder:/srv/runs")
    ('sqlite:////home/ann/runs.db', 'folder:/srv/runs')
    """
    scheme, separator, rest = address.partition("://")
    if not separator or rest.startswith("/"):
        return mask_secrets(address)
    path, mark, query = rest.partition("?")
    host, slash, tail = path.partition("/")
    kept = [p for p in query.split("&") if p and mask_secrets(f"x?{p}") == f"x?{p}"]
    bare = f"{scheme}://{host.rpartition('@')[2]}{slash}{tail}"
    return mask_secrets(bare + (mark + "&".join(kept) if kept else ""))


def _mask_user_info(text: str) -> str:
    """Mask the text between ``://`` and the last @ that can belong to the same address."""
    pieces = re.split(r"([A-Za-z][\w+.-]{0,30}:(?:\\?/){2}|(?<![\w:/\\.])//)", text)  # JSON can write / as \\/
    masked, place = [pieces[0]], 1
    while place < len(pieces):
        scheme, rest, place = pieces[place], pieces[place + 1], place + 2
        inside = _slashes_in_password(rest, pieces, place)
        if inside:
            rest, place = "".join([rest, *pieces[place:inside]]), inside
        masked += [scheme, _mask_address(rest)]
    return "".join(masked)


def _slashes_in_password(rest: str, pieces: Sequence[str], place: int) -> int:
    """Return where the pieces of an address end whose password contains ``://``; 0 if it does not."""
    if not re.fullmatch(r"[^\s:@/\"'<>]{1,64}:(?!\d{1,5}(?:/|$))[^\s@\"'<>]{0,200}", rest):
        return 0
    length = len(rest)
    for end in range(place + 2, len(pieces) + 1, 2):
        word = re.split(r"[\s\"'<>]", pieces[end - 1], maxsplit=1)[0]
        if "@" in word:
            return end
        length += len(pieces[end - 2]) + len(word)
        if word != pieces[end - 1] or length > _MAX_PASSWORD:
            return 0
    return 0


def _mask_address(rest: str) -> str:
    line = re.split(r"[\n\"'<>]", rest, maxsplit=1)[0]
    quoted = re.match(r"[^\s:@/\"'<>]{1,64}:[^\s@]{1,200}@[\w\[]", rest)
    if quoted and "@" not in line and not re.match(r"[^\s:@/]+:\d+(?:\W|$)", rest):
        line = quoted[0]  # a password that contains a quotation mark
    broken = re.match(r"[^\s:@/]{1,64}:(?!\d{1,5}\s)[^\s@]{0,200}[\r\n]{1,2}[^\s@]{0,200}@[\w\[%]", rest)
    if broken and "@" not in line:
        line = broken[0]  # a password that contains a line break
        word, at = line, line.rfind("@")
    else:
        word = re.split(r"\s", line, maxsplit=1)[0]
        at = word.rfind("@")
    if at < 0:
        # A password can contain a space; then the host follows the @. A host and port before the space are not a user.
        if re.match(r"[^\s:@/]+(?::\d+)?(?:[/?#,;.)]|$)", word) or ":" not in word:
            return rest
        at = line.find("@")
        if at < 0:
            return rest
    elif re.search(r"[/?#]", word[:at]) and not re.match(r"[^/?#:]*:", word):
        return rest  # the @ is in the path of an address without user information
    user, separator, password = word[:at].partition(":")
    if not password or password in ("x-oauth-basic", "x-oauth-token"):  # the user name can be a token
        return f"{_MASK}{separator}{rest[at:]}"
    return (f"{user}:{_MASK}" if "@" not in user else _MASK) + rest[at:]


def private_file(path: Path) -> None:
    """Create an empty file that only its owner can read and write. An existing file is not changed.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    # An existing file is not opened: closing a database file would drop the locks that this process holds on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600))


def private_folder(path: Path) -> None:
    """Create a folder and its parents, accessible only by their owner. Existing folders are not changed.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
