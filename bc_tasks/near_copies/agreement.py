"""Whether two images are one: how many pairs of keypoints agree on one turn, scale and shift.

Pictures of different breasts share the breast's outline, the paddle's edge and burned-in markers. So keypoints count
only once for each place, and must not lie in one spot or along one line.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bc_tasks.near_copies.features import Features

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LOOSE, TIGHT = 0.045, 0.015  # shares of the side: how far a keypoint may lie from where the others say
MAX_SCALE = 1.5  # how much its size may differ
MAX_TURN = 25.0  # degrees, its angle
ROUNDS = 3  # of fitting and choosing anew
PLACES = 8  # across and down


@dataclass(frozen=True)
class Agreement:
    """How well a query agrees with a known image.

    `num_places` of the query's 64 squares hold inliers; `spread` is their standard deviation across the line that they
    are nearest to, as a share of the side; the known image, turned by `turn` degrees, is the query.
    """

    num_inliers: int
    num_places: int
    spread: float
    turn: float


NONE = Agreement(0, 0, 0.0, 0.0)


def agreement(query: Features, known: Features) -> Agreement:
    """Find the motion that most keypoints of the query make to those of the known image, and who makes it."""
    ours, theirs = _matches(query, known)
    if len(ours) < 3:
        return NONE
    here, there = query.points[ours].astype(np.float64), known.points[theirs].astype(np.float64)
    motions = there[:, 2] / here[:, 2] * np.exp(1j * np.radians(there[:, 3] - here[:, 3]))
    inliers = _first_guess(here, there, motions)
    motion = 1.0 + 0j
    for _ in range(ROUNDS):
        if inliers.sum() < 3:
            return NONE
        inliers, motion = _fitted(here, there, motions, inliers)
    return _described(here[inliers, :2], float(-np.degrees(np.angle(motion))))


def _matches(query: Features, known: Features) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Pairs of keypoints that are each other's nearest."""
    if not (len(query.points) and len(known.points)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    closeness = query.descriptors.astype(np.float32) @ known.descriptors.astype(np.float32).T
    nearest = closeness.argmax(axis=1)
    mutual = np.flatnonzero(closeness.argmax(axis=0)[nearest] == np.arange(len(nearest)))
    return mutual, nearest[mutual]


def _first_guess(here: Floats, there: Floats, motions: npt.NDArray[np.complex128]) -> Flags:
    """Each pair alone says a whole motion (turn, scale and shift): those who agree with the one most agree with."""
    from_, to = here[:, 0] + 1j * here[:, 1], there[:, 0] + 1j * there[:, 1]
    shift = to - motions * from_
    agree = np.abs(motions[:, None] * from_ + shift[:, None] - to) < LOOSE
    agree &= _alike(motions / motions[:, None])
    return np.asarray(agree[agree.sum(axis=1).argmax()])


def _fitted(here: Floats, there: Floats, motions: npt.NDArray[np.complex128], chosen: Flags) -> tuple[Flags, complex]:
    """The best affine motion of the chosen, who follows it, and its turn and scale."""
    known = np.column_stack((here[:, :2], np.ones(len(here))))
    affine = np.linalg.lstsq(known[chosen], there[chosen, :2], rcond=1e-3)[0]
    (a, c), (b, d) = affine[:2]
    if a * d - b * c <= 1e-6:  # flat, or mirrored, which was tried apart
        return np.zeros(len(here), dtype=bool), 1.0 + 0j
    motion = complex(a + d, c - b) / 2
    near = np.linalg.norm(known @ affine - there[:, :2], axis=1) < TIGHT
    return near & _alike(motions / motion), motion


def _alike(ratios: npt.NDArray[np.complex128]) -> Flags:
    size_differs = np.abs(np.log(np.abs(ratios)))
    return np.asarray((size_differs < np.log(MAX_SCALE)) & (np.abs(np.angle(ratios)) < np.radians(MAX_TURN)))


def _described(places: Floats, turn: float) -> Agreement:
    if len(places) < 3:
        return NONE
    squares = np.unique((places * PLACES).astype(np.int64) @ (1, PLACES))
    narrowest = float(np.linalg.eigvalsh(np.cov(places.T))[0])
    return Agreement(len(places), len(squares), max(narrowest, 0.0) ** 0.5, turn)
