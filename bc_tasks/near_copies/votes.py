"""Which few of very many images share most keypoints with a query: an inverted file over pairs of visual words.

Each half of a descriptor is replaced by the nearest of 256 words, which makes 65,536 cells. A cell lists the keypoints
in it, and so the keypoints of a query vote for images: only for the ones in their cells, never for all.
Source: Babenko and Lempitsky, "The inverted multi-index", 2012; turns that must agree: Jegou, Douze and Schmid,
"Hamming embedding and weak geometric consistency", 2008.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bc_tasks.near_copies.features import Features
from bc_tasks.near_copies.symmetry import MIRRORED

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NUM_WORDS = 256
HALF = 64  # of a descriptor
SAMPLE_IMAGES = 1000
SAMPLE_HALVES = 30_000
ROUNDS = 6
TURNS = 12  # bins of 30 degrees; a vote goes into two
MAX_VOTES = 500_000  # of one query: its rarest cells vote first, so its time has a bound however many images there are
SEED = 20_261_123


@dataclass(frozen=True)
class Postings:
    """All keypoints by cell: of cell c those from `starts[c]` to `starts[c + 1]`, each with its image and angle.

    `words` (W, 64); `starts` (W * W + 1); `images` (P,) int32; `angles` (P,) uint8, 256 to a turn: 5 bytes a keypoint.
    """

    words: Floats
    starts: Ints
    images: npt.NDArray[np.int32]
    angles: npt.NDArray[np.uint8]


def posted(features: Sequence[Features]) -> Postings:
    """List the keypoints of all images by cell; looks at each image once, and at a sample twice."""
    words = _words(features)
    cells, angles, counts = [], [], []
    for each in features:
        cells.append(_cells(each.descriptors, words, 1)[:, 0].astype(np.uint16))
        angles.append(_bytes(each.points[:, 3]))
        counts.append(len(each.points))
    cell = np.concatenate([np.zeros(0, np.uint16), *cells])
    order = np.argsort(cell, kind="stable")
    starts = np.concatenate([[0], np.bincount(cell, minlength=len(words) ** 2).cumsum()])
    images = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return Postings(words, starts, images[order], np.concatenate([np.zeros(0, np.uint8), *angles])[order])


def most_voted(postings: Postings, variants: Sequence[Features], limit: int) -> list[tuple[int, int]]:
    """Return (image, variant) with most votes for one turn, at most `limit`, best first; `variants` are one query's."""
    cells = [_cells(each.descriptors, postings.words, 2) for each in variants]
    cell = np.concatenate([each.ravel() for each in cells])
    angle = np.concatenate([np.repeat(_bytes(each.points[:, 3]), 4) for each in variants])
    variant = np.repeat(np.arange(len(cells)), [each.size for each in cells])
    length = postings.starts[cell + 1] - postings.starts[cell]
    order = np.argsort(length, kind="stable")
    asked = order[(length[order] > 0) & (length[order].cumsum() <= MAX_VOTES)]
    length = length[asked]
    place = np.repeat(postings.starts[cell[asked]] - length.cumsum() + length, length) + np.arange(length.sum())
    turn = (postings.angles[place] - np.repeat(angle[asked], length)).astype(np.int64) * TURNS // 256
    key = (postings.images[place].astype(np.int64) * len(cells) + np.repeat(variant[asked], length)) * TURNS
    weight = np.repeat(1 / np.sqrt(length), length)  # a full cell tells little
    keys, which = np.unique(np.concatenate([key + turn, key + (turn + 1) % TURNS]), return_inverse=True)
    votes = np.bincount(which, np.concatenate([weight, weight])).astype(np.float64)
    return _best(keys // TURNS, votes, len(cells), limit)


def _best(pairs: Ints, votes: npt.NDArray[np.float64], num_variants: int, limit: int) -> list[tuple[int, int]]:
    order = np.argsort(-votes, kind="stable")[: TURNS * limit]  # a pair may stand there once for each turn
    best = list(dict.fromkeys(pairs[order].tolist()))[:limit]
    return [divmod(pair, num_variants) for pair in best]


def _cells(descriptors: npt.NDArray[np.uint8], words: Floats, num_nearest: int) -> Ints:
    """Return the cells (K, num_nearest ** 2) of descriptors (K, 128)."""
    first, second = (_nearest(half, words, num_nearest) for half in _halves(descriptors))
    cells = first[:, :, None] * len(words) + second[:, None, :]
    return np.asarray(cells.reshape(len(descriptors), num_nearest**2))


def _halves(descriptors: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """The second half as the mirrored keypoint's first, so that both have the same words."""
    return descriptors[:, :HALF].astype(np.float32), descriptors[:, MIRRORED[:HALF]].astype(np.float32)


def _nearest(halves: Floats, words: Floats, number: int) -> Ints:
    closeness = halves @ words.T - 0.5 * (words**2).sum(axis=1)
    found = np.empty((len(halves), number), np.int64)
    for rank in range(number):
        found[:, rank] = closeness.argmax(axis=1)
        closeness[np.arange(len(halves)), found[:, rank]] = -np.inf
    return found


def _words(features: Sequence[Features]) -> Floats:
    """Cluster the halves of a sample of the images (k-means); the same images give the same words."""
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.permutation(len(features))[:SAMPLE_IMAGES])
    halves = [half for row in rows.tolist() for half in _halves(features[row].descriptors)]
    sample = np.concatenate([np.zeros((0, HALF), np.float32), *halves])
    sample = sample[rng.permutation(len(sample))[:SAMPLE_HALVES]]
    words = sample[:NUM_WORDS] if len(sample) else np.zeros((1, HALF), np.float32)
    for _ in range(ROUNDS):
        members = (_nearest(sample, words, 1)[:, 0] == np.arange(len(words))[:, None]).astype(np.float32)
        words = (members @ sample + 1e-3 * words) / (members.sum(axis=1, keepdims=True) + 1e-3)  # an empty one stays
    return words


def _bytes(degrees: Floats) -> npt.NDArray[np.uint8]:
    return np.asarray(np.rint(degrees * (256 / 360)).astype(np.int64) % 256, np.uint8)
