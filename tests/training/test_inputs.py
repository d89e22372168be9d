import numpy as np
import torch
from PIL import Image

from bc_tasks.training.inputs import InputFormat, normalise, resize


def test_black_and_white_become_0_and_1() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1).expand(2, 96, 96)
    grey = resize(images, 64)
    assert grey.shape == (2, 1, 64, 64)
    assert torch.equal(grey[0], torch.zeros(1, 64, 64))
    assert torch.allclose(grey[1], torch.ones(1, 64, 64), atol=1e-6)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    images = torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8)
    assert torch.equal(resize(images, 64)[0, 0], images[0].float() / 255)


def test_resizing_agrees_with_what_the_weights_were_trained_with() -> None:
    image = np.random.default_rng(3).integers(0, 256, (256, 256), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC), dtype=np.float32)
    ours = resize(torch.from_numpy(image)[None], 96)[0, 0].numpy() * 255
    assert np.abs(pillow - ours).max() < 1  # Pillow rounds to whole grey values, twice


def test_a_fine_pattern_is_averaged_not_sampled() -> None:
    stripes = (torch.arange(256) % 2 * 255).to(torch.uint8).expand(1, 256, 256)
    assert (resize(stripes, 64) - 0.5).abs().max() < 0.1


def test_normalising_gives_three_channels_with_their_own_mean_and_deviation() -> None:
    taken = InputFormat(64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.5))
    inputs = normalise(torch.full((2, 1, 64, 64), 0.5), taken, torch.channels_last)
    assert torch.allclose(inputs[0, :, 0, 0], torch.tensor([0.5, 0.0, -0.2]), atol=1e-6)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
