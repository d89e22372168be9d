"""Many images, ready to be searched for copies of others."""

from collections.abc import Sequence
from dataclasses import dataclass

from bc_tasks.near_copies.agreement import Agreement, agreement
from bc_tasks.near_copies.features import Features
from bc_tasks.near_copies.symmetry import SYMMETRIES, Symmetry, applied
from bc_tasks.near_copies.votes import most_voted, posted

NUM_CANDIDATES = 10
MIN_PLACES = (
    9  # real images of other patients had 8 at most, copies 9 at least (see benchmarks/RESULTS.md, "Near copies")
)
MIN_SPREAD = 0.04  # of the side; copies had 0.043 at least, keypoints along a straight edge have less


@dataclass(frozen=True)
class Match:
    """An indexed image, by its `row`, of which the query is a copy; `transform` says in words what was done to it."""

    row: int
    num_inliers: int
    transform: str


class Index:
    """Many images, ready to be searched; may be empty.

    It keeps 5 bytes a keypoint, about 1 KB an image, and no descriptors: `features` may load them when they are asked
    for. It asks for each image once, in order, when it is built (and first for a sample of 1,000), and for ten
    candidates of each query in `find`. Building takes time in proportion to the images; a query's time has a bound, so
    that with far more than 10,000 images in one index the most changed copies are missed: build several then.
    """

    def __init__(self, features: Sequence[Features]) -> None:
        self._features = features
        self._postings = posted(features)

    def find(self, queries: Sequence[Features], *, candidates: int = NUM_CANDIDATES) -> list[list[Match]]:
        """Return for each query the images it is a copy of, best first; `candidates` of them are looked at closely."""
        return [self._matches(query, candidates) for query in queries]

    def _matches(self, query: Features, candidates: int) -> list[Match]:
        variants = [applied(symmetry, query) for symmetry in SYMMETRIES]
        best: dict[int, Match] = {}
        for row, which in most_voted(self._postings, variants, candidates):
            seen = agreement(variants[which], self._features[row])
            if _is_copy(seen) and (row not in best or best[row].num_inliers < seen.num_inliers):
                best[row] = Match(row, seen.num_inliers, _in_words(SYMMETRIES[which], seen.turn))
        return sorted(best.values(), key=lambda match: (-match.num_inliers, match.row))


def _is_copy(seen: Agreement) -> bool:
    return seen.num_places >= MIN_PLACES and seen.spread >= MIN_SPREAD


def _in_words(symmetry: Symmetry, turn: float) -> str:
    degrees = round(abs(turn))
    told = ["mirrored"] * symmetry.mirrored + ["inverted"] * symmetry.inverted
    told += [f"turned by {degrees} degrees"] * (degrees >= 2)  # less is the fit's own error
    return ", ".join(told) or "as it is"
