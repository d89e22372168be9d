import numpy as np
import pytest
import torch

from bc_tasks.errors import OutOfMemory
from bc_tasks.training.memory import explained

CPU = torch.device("cpu")
TOO_MANY_BYTES = 2**60


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(TOO_MANY_BYTES, dtype=torch.uint8),
        lambda: np.empty(TOO_MANY_BYTES, dtype=np.uint8),
        lambda: bytearray(TOO_MANY_BYTES),
    ],
    ids=["torch", "numpy", "python"],
)
def test_running_out_of_memory_says_on_what_and_what_to_lower(take: object) -> None:
    sentence = (
        r"^this machine \([0-9.]+ GiB\) ran out of memory with batches of 32 images of 640 px: "
        r"lower training\.batch_size, or give the pod more memory$"
    )
    with (
        pytest.raises(OutOfMemory, match=sentence),
        explained(CPU, batch_size=32, image_size_px=640, lower="training.batch_size"),
    ):
        take()  # type: ignore[operator] # a callable each


def test_the_gpus_own_error_is_one_of_them() -> None:
    with (
        pytest.raises(OutOfMemory),
        explained(CPU, batch_size=32, image_size_px=640, lower="training.batch_size"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_any_other_error_stays_what_it_is() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes"),
        explained(CPU, batch_size=32, image_size_px=640, lower="training.batch_size"),
    ):
        raise RuntimeError("shapes don't fit")
