"""Bounds of a gain: exact where they can be checked by hand, never lowered by a better call, seldom too high."""

import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import evidence, metrics
from bc_tasks.evidence import Paired, detectable_gain, differences, lower_bound, standard_error
from bc_tasks.resampling import chunks, draw_halves, draw_patients

METRICS = ("recall", "f1", "specificity")
NUM_RESAMPLES = 1999
ERRORS = st.sampled_from([0.05, 0.01, 0.001])
IMAGE = st.tuples(st.booleans(), st.integers(0, 7), st.booleans(), st.booleans())
"""Whether it shows cancer, whose it is, and what challenger and champion call it."""


def _paired(images: list[tuple[bool, int, bool, bool]]) -> Paired:
    labels, patients, ours, theirs = (np.array(column) for column in zip(*images, strict=True))
    codes = np.unique(patients, return_inverse=True)[1]
    return Paired(labels.astype(np.int64), codes, ours.astype(bool), theirs.astype(bool))


def _bounds(paired: Paired, error: float) -> dict[str, float]:
    resampled = differences(paired, num_resamples=NUM_RESAMPLES, seed=3)
    return {name: lower_bound(_observed(paired)[name], resampled[name], error) for name in METRICS}


def _observed(paired: Paired) -> dict[str, float]:
    ours, theirs = (
        metrics.summarise(paired.labels, calls.astype(float), 0.5) for calls in (paired.ours, paired.theirs)
    )
    return {name: ours[name] - theirs[name] if not math.isnan(ours[name] - theirs[name]) else 0.0 for name in METRICS}


def _wins(num_wins: int, num_losses: int = 0, num_others: int = 50) -> Paired:
    """Patients with one image of cancer each, on which the challenger alone is right, the champion alone, or both."""
    images = [(True, True, False)] * num_wins + [(True, False, True)] * num_losses + [(True, True, True)] * num_others
    images += [(False, False, False)] * num_others
    return _paired([(label, patient, ours, theirs) for patient, (label, ours, theirs) in enumerate(images)])


@settings(deadline=None, max_examples=150)
@given(st.lists(IMAGE, min_size=1, max_size=30), ERRORS, st.data())
def test_putting_one_of_the_challengers_calls_right_lowers_no_bound(
    images: list[tuple[bool, int, bool, bool]], error: float, data: st.DataObject
) -> None:
    wrong = [number for number, (label, _, ours, _) in enumerate(images) if label != ours]
    if not wrong:
        return
    number = data.draw(st.sampled_from(wrong))
    label, patient, _, theirs = images[number]
    mended = [*images[:number], (label, patient, label, theirs), *images[number + 1 :]]
    before, after = _bounds(_paired(images), error), _bounds(_paired(mended), error)
    assert all(after[name] >= before[name] for name in METRICS)


@settings(deadline=None, max_examples=100)
@given(st.lists(IMAGE, min_size=1, max_size=30), st.integers(0, 100))
def test_each_resample_is_the_difference_of_both_models_metrics_on_the_drawn_patients(
    images: list[tuple[bool, int, bool, bool]], seed: int
) -> None:
    paired = _paired(images)
    resampled = differences(paired, num_resamples=5, seed=seed)
    for row, half in enumerate(draw_halves(int(paired.patients.max()) + 1, 5, seed)):
        kept = half[paired.patients] == 1
        part = Paired(*(column[kept] for column in vars(paired).values()))
        for name, value in _observed(part).items() if kept.any() else ():
            assert resampled[name][row] == pytest.approx(value), name


@settings(deadline=None, max_examples=50)
@given(st.lists(IMAGE, min_size=1, max_size=30), ERRORS)
def test_with_both_models_exchanged_no_two_bounds_are_above_zero(
    images: list[tuple[bool, int, bool, bool]], error: float
) -> None:
    ours = _paired(images)
    bounds, exchanged = _bounds(ours, error), _bounds(Paired(ours.labels, ours.patients, ours.theirs, ours.ours), error)
    assert all(min(bounds[name], exchanged[name]) <= 0 for name in METRICS)


@settings(deadline=None, max_examples=50)
@given(st.lists(IMAGE, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(images: list[tuple[bool, int, bool, bool]], random: Any) -> None:
    shuffled = random.sample(images, len(images))
    assert _bounds(_paired(images), 0.05) == _bounds(_paired(shuffled), 0.05)


@settings(deadline=None, max_examples=50)
@given(st.lists(IMAGE, min_size=1, max_size=30))
def test_less_error_is_a_lower_bound_and_none_is_above_what_was_seen(
    images: list[tuple[bool, int, bool, bool]],
) -> None:
    paired = _paired(images)
    wide, narrow, seen = _bounds(paired, 0.001), _bounds(paired, 0.05), _observed(paired)
    assert all(-1 <= wide[name] <= narrow[name] <= seen[name] + 1e-12 for name in METRICS)


def test_models_that_call_alike_have_no_gain() -> None:
    assert _bounds(_wins(0), 0.05) == {"recall": 0, "f1": 0, "specificity": 0}


@pytest.mark.parametrize(("error", "fewest"), [(0.05, 5), (0.05 / 90, 11)])
def test_so_many_patients_must_speak_for_a_gain_as_coins_that_seldom_enough_fall_alike(
    error: float, fewest: int
) -> None:
    """Of n patients none is in a half with a chance of 1 / 2^n: 1 in 32 for five, 1 in 2,048 for eleven."""
    assert 2.0**-fewest <= error < 2.0 ** -(fewest - 1)
    for num_wins, is_gain in ((fewest - 2, False), (fewest + 2, True)):  # halves are random, so not to the patient
        paired = _wins(num_wins)
        resampled = differences(paired, num_resamples=10_000, seed=1)["recall"]
        assert (lower_bound(_observed(paired)["recall"], resampled, error) > 0) == is_gain


def test_many_images_of_one_patient_with_cancer_are_no_proof() -> None:
    one = [(True, 0, True, False)] * 50 + [(False, patient, False, False) for patient in range(1, 60)]
    assert _bounds(_paired(one), 0.05)["recall"] <= 0


def test_fewer_resamples_than_the_error_asks_for_say_nothing() -> None:
    assert lower_bound(0.5, np.full(100, 0.5), 0.001) == -1
    assert lower_bound(0.5, np.full(999, 0.5), 0.001) == 0.5


def test_the_same_seed_gives_the_same_resamples_and_another_gives_others() -> None:
    paired = _wins(9, 5)
    first, again, other = (differences(paired, num_resamples=200, seed=seed)["recall"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_the_standard_error_is_that_of_patients_drawn_with_replacement() -> None:
    """Of independent pairs, the spread of a difference is known: that of wins minus losses."""
    paired = _wins(30, 20)
    resampled = differences(paired, num_resamples=10_000, seed=5)["recall"]
    assert standard_error(resampled) == pytest.approx(math.sqrt(50 - 10**2 / 100) / 100, rel=0.05)


def test_a_detectable_gain_lies_above_the_bar_by_the_power_asked_for() -> None:
    assert detectable_gain(1.0, 0.05, 0.5) == pytest.approx(1.6449, abs=1e-4)
    assert detectable_gain(0.02, 0.05) == pytest.approx(0.02 * (1.6449 + 0.8416), abs=1e-5)
    assert detectable_gain(0.02, 0.05 / 90) > detectable_gain(0.02, 0.05)


@pytest.mark.parametrize("error", [0.05, 0.005])
def test_equal_models_clear_zero_no_more_often_than_the_error_says(error: float) -> None:
    """Of 1,500 equal pairs with alike images of a patient: at most three standard deviations more than allowed."""
    generator, num_pairs = np.random.default_rng(8), 1500
    patients = np.repeat(np.arange(60), generator.integers(1, 9, 60))
    labels = (np.arange(60) % 3 == 0)[patients].astype(np.int64)
    cleared = dict.fromkeys(("recall", "f1"), 0)
    for seed in range(num_pairs):
        paired = Paired(labels, patients, *_alike_calls(labels, patients, generator))
        resampled = differences(paired, num_resamples=599, seed=seed)
        for name in cleared:
            cleared[name] += lower_bound(1.0, resampled[name], error) > 0
    most = num_pairs * error + 3 * math.sqrt(num_pairs * error)
    assert max(cleared.values()) <= most
    assert error < 0.05 or min(cleared.values()) > 0


def _alike_calls(
    labels: npt.NDArray[np.int64], patients: npt.NDArray[np.int64], generator: np.random.Generator
) -> list[npt.NDArray[np.bool_]]:
    common = generator.normal(size=len(labels)) + generator.normal(size=patients[-1] + 1)[patients]
    own = (generator.normal(size=len(labels)) + generator.normal(size=patients[-1] + 1)[patients] for _ in range(2))
    return [common + part + 2 * labels > 1 for part in own]


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 1000))
def test_every_resample_draws_as_many_patients_as_there_are(num_patients: int, num_resamples: int, seed: int) -> None:
    draws = draw_patients(num_patients, num_resamples, seed)
    assert draws.shape == (num_resamples, num_patients)
    assert (draws.sum(axis=1) == num_patients).all()


def test_every_half_is_drawn_about_as_often() -> None:
    halves = draw_halves(3, 8000, 1)
    counts = [int((halves == pattern).all(axis=1).sum()) for pattern in product((0, 1), repeat=3)]
    assert sum(counts) == 8000
    assert all(abs(count - 1000) < 5 * math.sqrt(1000) for count in counts)


def test_nobody_can_change_resamples_that_others_use_too() -> None:
    for draws in (draw_patients(3, 4, 1), draw_halves(3, 4, 1)):
        with pytest.raises(ValueError, match="read-only"):
            draws[0, 0] = 1


@given(st.integers(0, 10_000), st.integers(1, 2_000_000))
def test_chunks_hold_every_row_once(num_rows: int, num_columns: int) -> None:
    rows = list(chunks(num_rows, num_columns))
    assert sum(part.stop - part.start for part in rows) == num_rows
    assert all(before.stop == after.start for before, after in pairwise(rows))


def test_what_is_registered_as_the_lowest_is_the_lowest_difference_of_shares() -> None:
    nothing = _paired([(True, patient, False, True) for patient in range(40)])
    assert _bounds(nothing, 0.05)["recall"] == evidence.LOWEST_DIFFERENCE
