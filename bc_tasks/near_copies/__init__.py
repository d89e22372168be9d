"""Finds copies that an exporter made of an image: re-encoded, resized, mirrored, turned, inverted, cropped, painted on.

features.py   pixels -> keypoints with descriptors (SIFT), to be stored beside the pixels
symmetry.py   the features of the mirrored and of the inverted image, without the image
votes.py      which few of very many images are worth a closer look
agreement.py  whether two images are one: how many keypoints agree on one turn, scale and shift
index.py      all of it together
"""

from bc_tasks.near_copies.features import VERSION, Features, extract, pack, unpack
from bc_tasks.near_copies.index import Index, Match

__all__ = ["VERSION", "Features", "Index", "Match", "extract", "pack", "unpack"]
