import pytest
import torch
from torch import Generator, Tensor

from bc_tasks.config import AugmentationConfig
from bc_tasks.training.augment import augment, draw
from bc_tasks.training.inputs import InputFormat, normalise

NOTHING = AugmentationConfig(
    horizontal_flip_probability=0, vertical_flip_probability=0, rotation_degrees=0, rectangle_probability=0
)


def seeded(seed: int = 1) -> Generator:
    return torch.Generator().manual_seed(seed)


def noise(num_images: int = 64, size: int = 48) -> Tensor:
    return torch.rand(num_images, 1, size, size, generator=seeded(9)) * 0.9 + 0.1


def only(**fields: float) -> AugmentationConfig:
    return NOTHING.model_copy(update=fields)


def changed(images: Tensor, config: AugmentationConfig, seed: int = 1) -> Tensor:
    return augment(images, config, draw(len(images), seeded(seed)))


def test_nothing_wanted_is_nothing_done() -> None:
    assert torch.equal(changed(noise(), NOTHING), noise())


@pytest.mark.parametrize(("field", "dimension"), [("horizontal_flip_probability", 3), ("vertical_flip_probability", 2)])
def test_a_flip_is_exact_and_happens_as_often_as_it_should(field: str, dimension: int) -> None:
    images = noise(400, 8)
    assert torch.equal(changed(images, only(**{field: 1})), images.flip(dimension))
    flipped = changed(images, only(**{field: 0.25}))
    same = (flipped == images).flatten(1).all(1)
    turned = (flipped == images.flip(dimension)).flatten(1).all(1)
    assert (same ^ turned).all()
    assert 0.15 < turned.float().mean() < 0.35


def test_rotation_turns_by_at_most_the_degrees_wanted_and_differently_each_time() -> None:
    image = torch.zeros(200, 1, 65, 65)
    image[:, :, 32, 52:57] = 1  # a mark to the right of the middle
    rotated = changed(image, only(rotation_degrees=20))[:, 0]
    rows = torch.arange(65.0).view(1, 65, 1) - 32
    columns = torch.arange(65.0).view(1, 1, 65) - 32
    mass = rotated.sum((1, 2))
    angles = torch.atan2((rotated * rows).sum((1, 2)) / mass, (rotated * columns).sum((1, 2)) / mass).rad2deg()
    assert angles.abs().max() < 20.5
    assert angles.max() > 15
    assert angles.min() < -15
    assert len(set(angles.tolist())) == 200


def test_rotation_brings_in_black_and_keeps_the_scale() -> None:
    rotated = changed(torch.ones(50, 1, 65, 65), only(rotation_degrees=180))
    assert (rotated[:, 0, 0, 0] == 0).any()
    assert torch.allclose(rotated[:, 0, 22:43, 22:43], torch.ones(50, 21, 21), atol=1e-5)
    assert rotated.min() >= 0
    assert rotated.max() <= 1 + 1e-5


def test_rectangles_are_black_wholly_inside_and_of_the_area_wanted() -> None:
    images = noise(500, 64)
    config = only(rectangle_probability=1, rectangle_min_share=0.05, rectangle_max_share=0.15)
    hidden = (changed(images, config) == 0)[:, 0]
    shares = hidden.float().mean((1, 2))
    assert shares.min() > 0.04
    assert shares.max() < 0.17
    heights, widths = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(heights * widths, hidden.sum((1, 2))), "one unbroken rectangle each"
    ratios = heights / widths
    assert ratios.max() > 2
    assert ratios.min() < 0.5
    assert hidden.any(0).any(0).all(), "every column is hidden now and then"
    assert hidden.any(0).any(1).all(), "and every row"


def test_a_rectangle_as_large_as_the_image_hides_it() -> None:
    config = only(rectangle_probability=1, rectangle_min_share=1, rectangle_max_share=1)
    assert changed(noise(), config).abs().max() == 0


def test_rectangles_come_as_often_as_they_should() -> None:
    images = noise(400, 16)
    hit = (changed(images, only(rectangle_probability=0.35)) != images).flatten(1).any(1)
    assert 0.27 < hit.float().mean() < 0.43


def test_black_is_the_black_of_an_empty_background_also_after_normalising() -> None:
    taken = InputFormat(48, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config = only(rectangle_probability=1, rectangle_min_share=1, rectangle_max_share=1)
    hidden = normalise(changed(noise(), config), taken, torch.contiguous_format)
    background = normalise(torch.zeros(64, 1, 48, 48), taken, torch.contiguous_format)
    assert torch.equal(hidden, background)


def test_a_seed_gives_the_same_images_and_another_seed_others() -> None:
    first, again, other = (changed(noise(), AugmentationConfig(), seed) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_of_a_batch_are_changed_independently() -> None:
    alike = noise(1).expand(32, 1, 48, 48)
    assert len({image.numpy().tobytes() for image in changed(alike, AugmentationConfig())}) == 32


def test_a_part_of_a_batch_is_changed_as_in_the_whole() -> None:
    draws = draw(64, seeded())
    whole = augment(noise(), AugmentationConfig(), draws)
    assert torch.equal(augment(noise()[20:33], AugmentationConfig(), draws[:, 20:33]), whole[20:33])
