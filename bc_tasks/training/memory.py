"""Running out of memory, said in a sentence: what was too much, and what can be done."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bc_tasks.errors import OutOfMemory

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a pod or container may use, "max" for all. Source: Linux, Documentation/admin-guide/cgroup-v2.rst."""
PHRASES = ("out of memory", "can't allocate memory")
"""What torch says in errors that have no class of their own, of CUDA and of a CPU."""


@contextmanager
def explained(device: torch.device, *, batch_size: int, image_size_px: int, lower: str) -> Iterator[None]:
    """Turn any way of running out of memory within into one error: on what, with what images, and what to `lower`.

    Raises:
        OutOfMemory: the memory of the GPU or of the machine was not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(phrase in str(error) for phrase in PHRASES):
            raise
        raise OutOfMemory(
            f"{_describe(device)} ran out of memory with batches of {batch_size} images of {image_size_px} px: "
            f"lower {lower}, or give the pod more memory"
        ) from error


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        name, num_bytes = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    else:
        name, num_bytes = "this machine", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
        num_bytes = num_bytes if limit == "max" else min(num_bytes, int(limit))
    return f"{name} ({num_bytes / 2**30:.1f} GiB)"
