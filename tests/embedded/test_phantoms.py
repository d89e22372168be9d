import csv
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bc_tasks.config import PixelsConfig
from bc_tasks.embedded.phantom_pictures import Breast, Lesion, Scanner, draw
from bc_tasks.embedded.phantoms import MACHINES, Phantom, make_patients, write_batch
from bc_tasks.mammogram import Density, Label, Laterality, View
from bc_tasks.pixels import decode

FILE_NAME = re.compile(r"^(\d+)_(\d+)_png\.rf\.[0-9a-f]{32}\.jpg$")


@pytest.fixture(scope="module")
def many() -> list[Phantom]:
    return list(make_patients(150, seed=9, size_px=48))


def patients(phantoms: list[Phantom]) -> list[list[Phantom]]:
    return [list(images) for _, images in groupby(phantoms, key=lambda phantom: phantom.patient_id)]


def test_a_patient_is_decided_by_seed_and_number_alone() -> None:
    third = [phantom for phantom in make_patients(4, seed=1) if phantom.patient_id == "3"]
    alone = list(make_patients(1, seed=1, first_patient=3))
    assert [phantom.image_id for phantom in third] == [phantom.image_id for phantom in alone]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(third, alone, strict=True))


def test_another_seed_makes_other_patients() -> None:
    one, other = (next(make_patients(1, seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("size_px", [64, 320])
def test_pixels_have_the_size_that_was_asked_for(size_px: int) -> None:
    pixels = next(make_patients(1, seed=1, size_px=size_px)).pixels
    assert pixels.shape == (size_px, size_px)
    assert pixels.dtype == np.uint8


def test_patients_have_two_to_four_images_of_their_own(many: list[Phantom]) -> None:
    assert {len(images) for images in patients(many)} == {2, 3, 4}
    assert len({phantom.image_id for phantom in many}) == len(many)
    assert len({phantom.pixels.tobytes() for phantom in many}) == len(many)


def test_about_a_third_of_the_patients_have_cancer_in_one_breast(many: list[Phantom]) -> None:
    with_cancer = [images for images in patients(many) if any(image.label for image in images)]
    assert len(with_cancer) / 150 == pytest.approx(0.35, abs=0.1)
    for images in with_cancer:
        assert len({image.laterality for image in images if image.label}) == 1


def test_about_one_image_in_six_is_stored_inverted(many: list[Phantom]) -> None:
    inverted = [MACHINES[phantom.machine_id].scanner.stores_inverted for phantom in many]
    assert np.mean(inverted) == pytest.approx(1 / 6, abs=0.08)


def test_every_kind_of_image_is_made(many: list[Phantom]) -> None:
    assert {phantom.density for phantom in many} == set(Density)
    assert {phantom.view for phantom in many} == {View.CC, View.MLO}
    assert {phantom.laterality for phantom in many} == set(Laterality)
    assert {phantom.label for phantom in many} == set(Label)
    assert {phantom.machine_id for phantom in many} == set(MACHINES)
    assert all(18 <= phantom.age <= 110 for phantom in many)


@pytest.mark.parametrize("laterality", list(Laterality))
@pytest.mark.parametrize("view", [View.CC, View.MLO])
def test_the_breast_is_on_its_side_and_the_marker_on_the_other(view: View, laterality: Laterality) -> None:
    pixels = picture(None, view=view, laterality=laterality)
    left, right = pixels[60:, :40].mean(), pixels[60:, -40:].mean()
    assert (left > right + 20) == (laterality is Laterality.LEFT)
    outer = pixels[:30, 240:] if laterality is Laterality.LEFT else pixels[:30, :80]
    assert outer.max() > 200


@pytest.mark.parametrize("kind", ["mass", "spiculated mass", "calcifications"])
def test_a_more_visible_lesion_is_brighter(kind: str) -> None:
    nothing = picture(None).astype(int)
    faint, plain = (picture(Lesion(kind, visibility, 0.04)).astype(int) - nothing for visibility in (0.1, 1.0))
    assert 0 < faint.sum() < plain.sum()
    assert (plain > 10).mean() < 0.1  # it is somewhere, not everywhere


def picture(lesion: Lesion | None, view: View = View.CC, laterality: Laterality = Laterality.LEFT) -> np.ndarray:
    breast = Breast(depth=0.5, density=Density.B)
    noiseless = Scanner(1.0, 1.0, 0.0, 0.0, 0.5, has_boxed_marker=True, stores_inverted=False)
    random = np.random.default_rng(1)
    return draw(breast, lesion, noiseless, view=view, laterality=laterality, size_px=320, rng=random)


def test_a_batch_in_folders_tells_label_patient_and_image_by_its_paths(tmp_path: Path) -> None:
    phantoms = list(make_patients(6, seed=3, size_px=64))
    write_batch(tmp_path, phantoms, layout="folders")
    seen = set()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            name = FILE_NAME.match(path.name)
            assert name is not None
            seen.add((int(path.parent.name), *name.groups()))
    assert seen == {(int(phantom.label), phantom.patient_id, phantom.image_id) for phantom in phantoms}


def test_a_batch_with_a_labels_file_tells_everything_in_it(tmp_path: Path) -> None:
    phantoms = list(make_patients(3, seed=3, size_px=64))
    write_batch(tmp_path, phantoms, layout="labels_csv")
    with (tmp_path / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, phantom in zip(rows, phantoms, strict=True):
        stored = np.asarray(Image.open(tmp_path / row.pop("path")))
        assert np.abs(stored.astype(int) - phantom.pixels).mean() < 8
        assert row == {
            "label": str(int(phantom.label)),
            "patient_id": phantom.patient_id,
            "image_id": phantom.image_id,
            "view": phantom.view.value,
            "laterality": phantom.laterality.value,
            "site_id": phantom.site_id,
            "machine_id": phantom.machine_id,
            "age": str(phantom.age),
            "density": phantom.density.value,
        }


def test_the_files_decode_to_upright_pixels(tmp_path: Path) -> None:
    phantoms = list(make_patients(10, seed=5))
    write_batch(tmp_path, phantoms, layout="folders")
    by_image = {phantom.image_id: phantom for phantom in phantoms}
    for path in tmp_path.rglob("*.jpg"):
        decoded = decode(path.read_bytes(), name=path.name, config=PixelsConfig(size_px=128), max_source_pixels=10**6)
        machine = MACHINES[by_image[path.name.split("_")[1]].machine_id]
        assert decoded.was_inverted == machine.scanner.stores_inverted
