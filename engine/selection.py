"""The selection language: which assets a person means, as in `+orders and not group:daily`.

    orders  analytics/*                 an asset by key, or all whose keys match
    group:daily  owner:me@x.org  kind:table  tag:tier  tag:tier=gold   (patterns, too)
    is:source  is:asset  status:stale   what it is, and how it stands
    +x  x+  +x+  2+x  x+3               with what is upstream or downstream, at most so many hops
    not A   A and B   A or B   A, B     from tight to loose; the comma is `or`; parentheses group

Quoted text stands for itself: `'not'`, `group:"my group"`, `'2024'+1`.
"""

import re
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from freshet.engine.errors import RequestError, did_you_mean
from freshet.engine.graph import Edge, Graph
from freshet.engine.keys import AssetKey
from freshet.engine.specs import AssetSpec

STATUSES = ("fresh", "stale", "waiting", "missing", "failed", "running")
ATTRIBUTES = ("group", "tag", "owner", "kind", "is", "status")
MAX_DEPTH = 50  # of parentheses and `not`
_WORDS: dict[str, tuple[str, ...]] = {"is": ("asset", "source"), "status": STATUSES}
_BARE = r"""(?:[^\s(),'"+]|\+(?!\+|[0-9]*(?:[\s(),]|\Z)))+"""  # `+` may be inside: me+ops@x.org
_TERM = re.compile(
    r"""(?:(?P<attribute>\w+):(?!=)(?P<tag>(?<=\btag:)[^\s(),'"=]+=)?+)?"""
    rf"""(?:(?P<quote>['"])(?P<quoted>(?s:.*?))(?P=quote)|(?P<bare>{_BARE}))"""
)
_UP = re.compile(r"([0-9]*)\+(?=[^\s,)+])")
_DOWN = re.compile(r"\+([0-9]*)(?=[\s(),]|\Z)")
_NOT, _AND, _OR, _WORD = (
    re.compile(rf"""(?:(?:{words})(?=[\s(),'"+]|\Z){also})\s*""", re.IGNORECASE)
    for words, also in (("not", ""), ("and", ""), ("or", "|,"), ("not|and|or", ""))
)
_WILD = re.compile(r"([*?[])")


class Term(msgspec.Struct, frozen=True):
    """A key, or what an attribute has: `text` as written, and as a pattern for fnmatch."""

    at: int
    attribute: str
    tag: str
    text: str
    pattern: str


class Reach(msgspec.Struct, frozen=True):
    """A selection with what is at most `up` hops upstream of it and `down` hops downstream."""

    inner: "Selection"
    up: int
    down: int


class Joined(msgspec.Struct, frozen=True):
    """What all parts select, what any does, or what the only one does not."""

    sign: "Sign"
    parts: "tuple[Selection, ...]"


Selection = Term | Reach | Joined
Sign = Literal["and", "or", "not"]
Status = Callable[[AssetKey], Collection[str]]
Keys = set[AssetKey]


def select(graph: Graph, text: str, status: Status | None = None) -> list[AssetKey]:
    """The keys the text means, upstream first. `status` says which of `STATUSES` an asset has.

    Raises RequestError, with the column, for text that cannot be read, an exact key that does not
    exist, and `status:` when no `status` is given. Patterns and attributes may match nothing.
    """

    def matches(term: Term) -> Keys:
        exact = term.pattern != term.text or not _WILD.search(term.text)
        if exact and not term.attribute and term.text not in graph.specs:
            hint = did_you_mean(term.text, graph.specs) or "list them with `freshet graph`"
            raise _fault(text, term.at, f"there is no asset {term.text!r}", hint)
        if term.attribute == "status" and status is None:
            hint = "no status is known in this place: select by key, group or tag"
            raise _fault(text, term.at, "expected no 'status:' here", hint)
        return {key for key, spec in graph.specs.items() if _has(spec, term, status)}

    found = _evaluate(_Parser(text).whole(), graph, matches)
    return [key for key in graph.specs if key in found]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, len(text) - len(text.lstrip()), 0

    def whole(self) -> Selection:
        found = self.joined()
        if self.at < len(self.text):
            raise self.expected("'and', 'or', ',' or the end", "join as in 'a and b' or 'a, b'")
        return found

    def take(self, sign: re.Pattern[str] | str) -> re.Match[str] | None:
        if match := re.compile(sign).match(self.text, self.at):
            self.at = match.end()
        return match

    def joined(self, sign: Sign = "or") -> Selection:
        rule = self.negated if sign == "and" else lambda: self.joined("and")
        parts = [rule()]
        while self.take(_AND if sign == "and" else _OR):
            parts.append(rule())
        return parts[0] if len(parts) == 1 else Joined(sign, tuple(parts))

    def negated(self) -> Selection:
        if self.take(_NOT):
            return Joined("not", (self.nested(self.negated),))
        up = self.take(_UP)
        inner = self.nested(self.joined, r"\)") if self.take(r"\(\s*") else self.term()
        down = self.take(_DOWN)
        self.take(r"\s+")
        return Reach(inner, _hops(up), _hops(down)) if up or down else inner

    def nested(self, rule: Callable[[], Selection], close: str = "") -> Selection:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.expected(f"at most {MAX_DEPTH} levels of '(' and 'not'", "say it simpler")
        found = rule()
        self.depth -= 1
        if not self.take(close):
            raise self.expected("'and', 'or', ',' or ')'", "close each '(' with a ')'")
        return found

    def term(self) -> Selection:
        start = self.at
        found = None if _WORD.match(self.text, start) else self.take(_TERM)
        if not found:
            hint = "quote names that are signs or words of the language, and end each quote"
            raise self.expected("an asset key, a term such as 'group:daily', 'not' or '('", hint)
        attribute, text = found["attribute"] or "", found["quoted"] or found["bare"] or ""
        if attribute not in ("", *ATTRIBUTES) or (not attribute and ":" in (found["bare"] or "")):
            self.at, word = start, attribute or text.partition(":")[0]
            near = did_you_mean(word, [known for known in ATTRIBUTES if known != word])
            what = f"ATTRIBUTE:VALUE, with one of {', '.join(ATTRIBUTES)}"
            raise self.expected(what, near or "for example 'group:daily'")
        if (known := _WORDS.get(attribute)) and text not in known:
            self.at = start + len(attribute) + 1
            hint = did_you_mean(text, known) or f"for example '{attribute}:{known[0]}'"
            raise self.expected(f"one of {', '.join(known)}", hint)
        pattern = _WILD.sub(r"[\1]", text) if found["quote"] else text
        return Term(start, attribute, (found["tag"] or "")[:-1], text, pattern)

    def expected(self, what: str, hint: str) -> RequestError:
        found = re.compile(rf"{_BARE}|(?s:.)").match(self.text, self.at)
        seen = repr(found[0]) if found else "the end"
        return _fault(self.text, self.at, f"expected {what}; found {seen}", hint)


def _fault(text: str, at: int, fault: str, hint: str) -> RequestError:
    return RequestError(f"selection {text!r}, column {at + 1}: {fault}", hint=hint)


def _hops(sign: re.Match[str] | None) -> int:
    digits = sign[1].lstrip("0") if sign else "0"
    return 10**9 if len(digits) > 9 or (sign and not sign[1]) else int(digits or "0")


def _evaluate(found: Selection, graph: Graph, matches: Callable[[Term], Keys]) -> Keys:
    match found:
        case Term():
            return matches(found)
        case Reach(inner, up, down):
            start = _evaluate(inner, graph, matches)
            return _within(start, graph.upstream, up) | _within(start, graph.downstream, down)
        case Joined(sign, parts):
            sets = [_evaluate(part, graph, matches) for part in parts]
            if sign == "not":
                return set(graph.specs).difference(*sets)
            return set.union(*sets) if sign == "or" else set.intersection(*sets)


def _within(start: Keys, edges: dict[AssetKey, tuple[Edge, ...]], hops: int) -> Keys:
    found, last = set(start), start
    while last and hops:
        last = {edge.asset for key in last for edge in edges[key]} - found
        found |= last
        hops -= 1
    return found


def _has(spec: AssetSpec, term: Term, status: Status | None) -> bool:
    if term.attribute == "status":
        return status is not None and term.text in status(spec.key)
    one = {"": spec.key, "group": spec.group, "is": spec.kind}
    many = {"owner": spec.owners, "kind": spec.kinds, "tag": tuple(spec.tags)}
    values = (one[term.attribute],) if term.attribute in one else many[term.attribute]
    if term.tag:
        values = tuple(v for name, v in spec.tags.items() if fnmatchcase(name, term.tag))
    return any(fnmatchcase(value, term.pattern) for value in values)
