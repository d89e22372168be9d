"""A breast, and a patient, is as suspicious as the most suspicious of its images."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import grouping, metrics
from bc_tasks.records import ScoredImage

IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["P1", "P2", "P3", "P4"]),
        st.sampled_from(["L", "R", None]),
        st.integers(0, 1),
        st.floats(0, 1),
    ),
    max_size=30,
)


def _scored(images: list[tuple[str, str | None, int, float]]) -> list[ScoredImage]:
    return [
        ScoredImage(image_id=f"I{number}", patient_id=patient, laterality=side, label=label, probability=probability)
        for number, (patient, side, label, probability) in enumerate(images)
    ]


EXAMPLE = _scored(
    [
        ("P1", "L", 0, 0.2),
        ("P1", "L", 1, 0.1),
        ("P1", "R", 0, 0.9),
        ("P2", None, 1, 0.7),
        ("P2", "R", 0, 0.3),
    ]
)


def test_a_breast_is_its_views_together_and_an_unknown_side_is_left_out_and_counted() -> None:
    breasts = grouping.by_breast(EXAMPLE)
    assert list(breasts.patient_ids) == ["P1", "P1", "P2"]
    assert list(breasts.labels) == [1, 0, 0]
    assert list(breasts.probabilities) == [0.2, 0.9, 0.3]
    assert breasts.num_left_out == 1


def test_a_patient_is_all_of_her_images_also_those_of_an_unknown_side() -> None:
    patients = grouping.by_patient(EXAMPLE)
    assert list(patients.patient_ids) == ["P1", "P2"]
    assert list(patients.labels) == [1, 1]
    assert list(patients.probabilities) == [0.9, 0.7]
    assert patients.num_left_out == 0


def test_an_image_for_itself_stays_what_it_is() -> None:
    images = grouping.by_image(EXAMPLE)
    assert list(images.probabilities) == [image.probability for image in EXAMPLE]
    assert list(images.labels) == [image.label for image in EXAMPLE]
    assert list(images.patient_ids) == [image.patient_id for image in EXAMPLE]


def test_without_any_laterality_there_are_no_breasts() -> None:
    breasts = grouping.by_breast(_scored([("P1", None, 1, 0.4), ("P2", None, 0, 0.2)]))
    assert (len(breasts), breasts.num_left_out) == (0, 2)


@pytest.mark.parametrize("first", [math.nan, 0.4])
def test_a_group_with_a_score_that_is_no_number_has_none(first: float) -> None:
    other = 0.4 if math.isnan(first) else math.nan
    patients = grouping.by_patient(_scored([("P1", "L", 1, first), ("P1", "R", 0, other), ("P2", "L", 0, 0.1)]))
    assert np.isnan(patients.probabilities).tolist() == [True, False]


@settings(deadline=None, max_examples=150)
@given(IMAGES, st.floats(0, 1))
def test_a_group_is_called_and_shows_cancer_exactly_where_one_of_its_images_does(
    images: list[tuple[str, str | None, int, float]], point: float
) -> None:
    called, cancer = defaultdict(bool), defaultdict(bool)
    for patient, side, label, probability in images:
        if side is not None:
            called[patient, side] |= probability >= point
            cancer[patient, side] |= label == 1
    breasts = grouping.by_breast(_scored(images))
    assert list(breasts.probabilities >= point) == list(called.values())
    assert list(breasts.labels == 1) == list(cancer.values())
    assert list(breasts.patient_ids) == [patient for patient, _ in called]


@settings(deadline=None, max_examples=100)
@given(IMAGES, st.floats(0, 1))
def test_more_views_never_find_fewer_of_the_breasts_or_patients_with_cancer(
    images: list[tuple[str, str | None, int, float]], point: float
) -> None:
    """Of groups with cancer, those found are at least those with a cancer image that was called."""
    scored = _scored(images)
    patients = grouping.by_patient(scored)
    found = {image.patient_id for image in scored if image.label == 1 and image.probability >= point}
    hit = int(((patients.labels == 1) & (patients.probabilities >= point)).sum())
    assert hit >= len(found)
    if (patients.labels == 1).any():
        recall = metrics.summarise(patients.labels, patients.probabilities, point)["recall"]
        assert recall == pytest.approx(hit / (patients.labels == 1).sum())


@settings(deadline=None, max_examples=100)
@given(IMAGES)
def test_no_image_is_lost(images: list[tuple[str, str | None, int, float]]) -> None:
    scored = _scored(images)
    assert grouping.by_breast(scored).num_left_out == sum(side is None for _, side, _, _ in images)
    assert set(grouping.by_patient(scored).patient_ids) == {patient for patient, _, _, _ in images}
