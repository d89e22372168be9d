"""The features of the mirrored and of the inverted image, from those of the image.

A SIFT descriptor counts gradients in 4 x 4 cells by 8 directions, all relative to the keypoint's own direction. So a
turned image has the same descriptors; a mirrored one has the cells across that direction and the counts by direction
in reverse order; and in a negative all gradients turn by 180 degrees, and with them the keypoint's direction: the cells
change places, and the directions, which are relative, stay.
"""

from dataclasses import dataclass

import numpy as np

from bc_tasks.near_copies.features import Features

BINS = np.arange(128).reshape(4, 4, 8)  # cells across the keypoint's direction, cells along it, directions
MIRRORED = BINS[::-1][:, :, -np.arange(8) % 8].ravel()
INVERTED = BINS[::-1, ::-1].ravel()


@dataclass(frozen=True)
class Symmetry:
    """What may have been done to an image besides turning it; upside down is mirrored and turned by 180 degrees."""

    mirrored: bool
    inverted: bool


SYMMETRIES = tuple(Symmetry(mirrored, inverted) for inverted in (False, True) for mirrored in (False, True))


def applied(symmetry: Symmetry, features: Features) -> Features:
    """Return the features that the mirrored (left to right) or inverted image has."""
    points, descriptors = features.points.copy(), features.descriptors
    if symmetry.mirrored:
        points[:, 0] = 1 - points[:, 0]
        points[:, 3] = (180 - points[:, 3]) % 360
        descriptors = descriptors[:, MIRRORED]
    if symmetry.inverted:
        points[:, 3] = (points[:, 3] + 180) % 360
        descriptors = descriptors[:, INVERTED]
    return Features(points, descriptors)
