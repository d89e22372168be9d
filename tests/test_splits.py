"""A patient is in one split only, for ever."""

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import splits
from bc_tasks.config import SplitsConfig
from bc_tasks.mammogram import Split

PATIENTS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30)


def _series(patient_ids: list[str]) -> "pd.Series[str]":
    return pd.Series(patient_ids, dtype="string")


@settings(deadline=None, max_examples=50)
@given(PATIENTS, st.sets(st.text(min_size=1, max_size=8)))
def test_all_images_of_a_patient_are_in_one_split(patient_ids: list[str], holdout: set[str]) -> None:
    rows = _series(patient_ids)
    assigned = splits.assign(rows, SplitsConfig(), holdout)
    assert (assigned.groupby(rows).nunique() == 1).all()
    assert assigned.notna().all()


@settings(deadline=None, max_examples=50)
@given(PATIENTS, PATIENTS)
def test_a_patient_never_moves_when_others_come_or_go(patient_ids: list[str], others: list[str]) -> None:
    alone = splits.assign(_series(patient_ids), SplitsConfig(), frozenset())
    together = splits.assign(_series(others + patient_ids), SplitsConfig(), frozenset())
    assert list(together[len(others) :]) == list(alone)


@settings(deadline=None, max_examples=50)
@given(PATIENTS, st.data())
def test_a_patient_of_the_holdout_is_never_trained_or_tuned_on(patient_ids: list[str], data: st.DataObject) -> None:
    holdout = data.draw(st.sets(st.sampled_from(patient_ids)))
    rows = _series(patient_ids)
    assigned = splits.assign(rows, SplitsConfig(), holdout)
    assert list(assigned == Split.HOLDOUT.value) == list(rows.isin(holdout))


def test_the_division_is_the_same_on_every_machine_and_in_every_version() -> None:
    """A change here would move patients between training and tuning in data sets that exist."""
    config = SplitsConfig(tuning_share=0.5, salt="2026")
    initials = "".join(splits.split_of(f"P{number}", config).value[1] for number in range(32))
    assert initials == "rrrrurrrrrurrrrurrruuururuururuu"  # of training and tuning, their second letters


def test_tuning_gets_about_its_share_of_many_patients() -> None:
    config = SplitsConfig(tuning_share=0.3)
    tuned = sum(splits.split_of(str(number), config) is Split.TUNING for number in range(5000))
    assert 0.28 < tuned / 5000 < 0.32


def test_another_salt_is_another_division() -> None:
    divisions = [
        [splits.split_of(str(number), SplitsConfig(salt=salt, tuning_share=0.5)) for number in range(64)]
        for salt in ("a", "b")
    ]
    assert divisions[0] != divisions[1]


def test_a_row_without_a_patient_has_no_split() -> None:
    assert splits.assign(pd.Series([pd.NA, "P1"], dtype="string"), SplitsConfig(), frozenset()).isna().tolist() == [
        True,
        False,
    ]


def test_no_rows_have_no_splits() -> None:
    assert splits.assign(_series([]), SplitsConfig(), frozenset()).empty
