"""Facts that several witnesses tell of: a record, a file's own digest, MLflow. Pure."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from bc_tasks.records import Part

T = TypeVar("T")

NOTHING = "nothing"
NUM_DIGITS = 12
"""How much of a digest people compare; records and JSON have all of it."""


class Link(Part):
    """A fact, what each witness says of it, and whether they agree; a sentence for people."""

    what: str
    holds: bool
    said: dict[str, str]
    sentence: str


def told(source: T | None, tell: Callable[[T], str]) -> str | None:
    """Return what a witness tells; None where there is no such witness."""
    return None if source is None else tell(source)


def agree(what: str, said: Mapping[str, str | None]) -> Link:
    """Return a link that holds where two witnesses or more say the same, and none anything else.

    None is a witness who is not there, which is for another link to complain of.
    """
    heard = {witness: saying for witness, saying in said.items() if saying is not None}
    holds = len(heard) > 1 and len(set(heard.values())) == 1 and NOTHING not in heard.values()
    if holds:
        sentence = f"{short(next(iter(heard.values())))}, as {len(heard)} witnesses say"
    elif len(heard) < 2:
        sentence = f"can't be checked: {' and '.join(sorted(set(said) - set(heard)))} are missing"
    else:
        sentence = "; ".join(_who_say(saying, heard) for saying in dict.fromkeys(heard.values()))
    return Link(what=what, holds=holds, said=heard, sentence=sentence)


def _who_say(saying: str, heard: Mapping[str, str]) -> str:
    who = [witness for witness, theirs in heard.items() if theirs == saying]
    return f"{', '.join(who)} {'says' if len(who) == 1 else 'say'} {short(saying)}"


def fact(what: str, holds: bool, sentence: str) -> Link:
    """Return a link that was checked in its own way."""
    return Link(what=what, holds=holds, said={}, sentence=sentence)


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def short(saying: str) -> str:
    """Shorten what is a digest."""
    is_digest = len(saying) in (32, 36, 64) and all(digit in "0123456789abcdef" for digit in saying)
    return saying[:NUM_DIGITS] if is_digest else saying
