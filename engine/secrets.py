"""Secrets: values that show themselves to nobody, and the redactor that takes them out of every
text that is recorded or printed.
"""

import json
import re
from base64 import b64encode
from urllib.parse import quote, quote_plus

SHOWN = "***"
"""What stands where a secret would."""

MIN_CHARS = 4
"""Shorter ones are not taken out of texts: they would be found in half of all words."""

MIN_REFUSED_CHARS = 8
"""Names and versions that hold a secret are refused; a shorter one may stand there by chance."""

MIN_BASE64_CHARS = 6
"""Of the middle of an encoding, whose ends depend on what stands beside the secret."""

MIN_LINE_CHARS = 16
"""Of a secret of several lines, such as a key, each line this long is one too."""

MAX_KNOWN = 10_000
"""Secrets of a process, the oldest forgotten first: above what a token renewed each hour makes in a
year.
"""

_SCRAMBLE = 0x5A
"""A pickled secret is no cipher, but nobody reads it by accident, nor finds it by a search."""

_known: dict[str, frozenset[str]] = {}
_pattern: tuple[tuple[int, str], re.Pattern[str]] = ((0, ""), re.compile("(?!)"))


class Secret:
    """A text that only `reveal` tells: shown, formatted, logged or recorded it is `***`.

    Every secret of a process is known to its redactor from the moment it is made, so that the text
    itself is taken out of what Freshet records and prints. Equal texts are equal secrets.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a secret is text, not {type(text).__name__}")
        self._text = text
        conceal(text)

    def reveal(self) -> str:
        """The text itself, for whoever has to know it."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret('{SHOWN}')"

    def __str__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return format(SHOWN, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> tuple[object, ...]:
        data = self._text.encode("utf-8", "surrogatepass")
        return _unpickled, (bytes(byte ^ _SCRAMBLE for byte in data),)


def conceal(text: str) -> None:
    """From now on `redact` takes this text out; also as it stands in URLs, JSON and base64."""
    if len(text) < MIN_CHARS or text in _known:
        return
    _known[text] = frozenset(_forms(text))
    while len(_known) > MAX_KNOWN:
        _known.pop(next(iter(_known)), None)


def redact(text: str) -> str:
    """The text with `***` for each secret of this process that is 4 characters long or longer.

    Costs nothing while there are none. Whoever shortens a text redacts it first: what is left of a
    secret that was cut is not found.
    """
    if not _known:
        return text
    return _current().sub(SHOWN, text)


def has_secrets() -> bool:
    """Is there anything to be taken out of texts?"""
    return bool(_known)


def is_told_in(text: str) -> bool:
    """Does the text, which cannot be changed, hold a secret (of 8 characters or more)?"""
    return any(
        len(one) >= MIN_REFUSED_CHARS and any(form in text for form in forms)
        for one, forms in list(_known.items())
    )


def told(value: object) -> str:
    """What an encoder writes for a secret. Raises TypeError for all other values it asks about."""
    if isinstance(value, Secret):
        return SHOWN
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _current() -> re.Pattern[str]:
    """One pattern for all forms, the longest first; made anew when there is another secret."""
    global _pattern  # noqa: PLW0603  # a cache, replaced as a whole: threads see the old or the new
    known = dict(_known)
    state = (len(known), next(reversed(known), ""))
    if _pattern[0] != state:
        forms = sorted({form for each in known.values() for form in each}, key=len, reverse=True)
        _pattern = (state, re.compile("|".join(map(re.escape, forms))))
    return _pattern[1]


def _forms(text: str) -> set[str]:
    data = text.encode("utf-8", "surrogatepass")
    found = {text, repr(text)[1:-1], repr(data)[2:-1]}
    found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    urls = {quote(data, safe=""), quote(data), quote_plus(data)}
    found |= urls | {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), url) for url in urls}
    found |= _base64_of(data)
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        found.update(one for one in lines if len(one) >= MIN_LINE_CHARS)
    return found


def _base64_of(data: bytes) -> set[str]:
    """How it looks inside of an encoding, at each of the three places where it may begin: without
    the characters that it shares with its neighbours.
    """
    found = {b64encode(data).decode().rstrip("=")}
    for lead, shared in enumerate((0, 2, 3)):
        text = b64encode(bytes(lead) + data).decode().rstrip("=")
        found.add(text[shared : None if (lead + len(data)) % 3 == 0 else -1])
    found = {text for text in found if len(text) >= MIN_BASE64_CHARS}
    return found | {text.translate(str.maketrans("+/", "-_")) for text in found}


def _unpickled(scrambled: bytes) -> Secret:
    data = bytes(byte ^ _SCRAMBLE for byte in scrambled)
    return Secret(data.decode("utf-8", "surrogatepass"))
