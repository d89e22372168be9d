"""What data must look like before anything is trained on it, checked by Great Expectations; its only home.

Each expectation (`table.py`) looks at a frame whose rows are the things it speaks of: images, patients, sites
(`scopes.py`). A bad image is set aside and the night goes on; what is wrong with the whole stops the night.
"""

from bc_tasks.expectations.checking import Findings, check
from bc_tasks.expectations.table import EXPECTATIONS

__all__ = ["EXPECTATIONS", "Findings", "check"]
