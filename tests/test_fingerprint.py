"""A fingerprint names what a data set says: not its order, not its place."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import fingerprint, manifest

TEXT = st.none() | st.text(max_size=6)
VALUES = {
    "string": TEXT,
    "Int64": st.none() | st.integers(0, 3),
    "Float64": st.none() | st.floats(0, 120).map(lambda value: round(value, 1)),
    "boolean": st.none() | st.booleans(),
}
CONTENT = [column for column in manifest.COLUMNS if column.in_fingerprint]
PLACES = sorted(
    {column.name for column in manifest.COLUMNS} - {column.name for column in CONTENT} - {"quarantine_reason"}
)


@st.composite
def manifests(draw: st.DrawFn) -> pd.DataFrame:
    """Usable rows with any values, separators and control characters included."""
    rows = draw(
        st.lists(
            st.fixed_dictionaries(
                {column.name: VALUES[column.kind] for column in manifest.COLUMNS if column.name != "quarantine_reason"}
            ),
            min_size=1,
            max_size=5,
        )
    )
    return manifest.conform(pd.DataFrame(rows, columns=list(manifest.COLUMN_NAMES)))


def _row(**values: object) -> pd.DataFrame:
    facts = {"key": "inbox/a/0/1.jpg", "sha256": "aa", "image_id": "1", "patient_id": "P1", "label": 1, "age": 50.0}
    return manifest.conform(pd.DataFrame([facts | values]))


@settings(deadline=None, max_examples=30)
@given(manifests(), st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_the_order_of_rows(frame: pd.DataFrame, random: object) -> None:
    order = list(frame.index)
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert fingerprint.of_manifest(frame.loc[order]) == fingerprint.of_manifest(frame)


@settings(deadline=None, max_examples=30)
@given(manifests(), st.sampled_from(PLACES), st.data())
def test_a_fingerprint_does_not_depend_on_where_things_are_stored(
    frame: pd.DataFrame, column: str, data: st.DataObject
) -> None:
    kind = {item.name: item.kind for item in manifest.COLUMNS}[column]
    moved = frame.assign(**{column: pd.array([data.draw(VALUES[kind])] * len(frame), dtype=kind)})
    assert fingerprint.of_manifest(moved) == fingerprint.of_manifest(frame)


@settings(deadline=None, max_examples=30)
@given(manifests(), st.sampled_from(CONTENT), st.data())
def test_a_fingerprint_changes_with_any_content(
    frame: pd.DataFrame, column: manifest.Column, data: st.DataObject
) -> None:
    changed = frame.copy()
    value = data.draw(VALUES[column.kind])
    before = frame[column.name].iloc[0]
    changed.loc[0, column.name] = pd.NA if value is None else value
    is_same = (value is None and pd.isna(before)) or (value is not None and pd.notna(before) and value == before)
    assert (fingerprint.of_manifest(changed) == fingerprint.of_manifest(frame)) == is_same


def test_no_value_can_pass_for_two() -> None:
    one, other = _row(patient_id="a\x1fb", source_stem="c"), _row(patient_id="a", source_stem="b\x1fc")
    assert fingerprint.of_manifest(one) != fingerprint.of_manifest(other)


def test_a_null_is_not_a_text() -> None:
    assert fingerprint.of_manifest(_row(view=None)) != fingerprint.of_manifest(_row(view="\0"))


def test_a_fingerprint_survives_storage() -> None:
    frame = _row(view="MLO", age=61.5)
    assert fingerprint.of_manifest(manifest.from_parquet(manifest.to_parquet(frame))) == fingerprint.of_manifest(frame)


def test_quarantined_rows_do_not_count() -> None:
    fine, bad = _row(), _row(key="inbox/a/0/2.jpg", quarantine_reason="unreadable")
    assert fingerprint.of_manifest(pd.concat([fine, bad])) == fingerprint.of_manifest(fine)


def test_a_row_that_is_there_twice_counts_twice() -> None:
    assert fingerprint.of_manifest(pd.concat([_row(), _row()])) != fingerprint.of_manifest(_row())


def test_every_column_says_whether_it_is_content() -> None:
    """A new column must be placed; what is content here is what the design says makes another data set."""
    assert {column.name for column in CONTENT} == {
        *("sha256", "image_id", "patient_id", "source_stem", "label", "view", "laterality", "site_id"),
        *("machine_id", "age", "density", "split", "pixel_sha256"),
    }


@pytest.mark.parametrize("change", [{"a": 2}, {"a": 1, "b": None}, {"a": "1"}])
def test_mappings_of_other_content_have_other_fingerprints(change: dict[str, object]) -> None:
    assert fingerprint.of_mapping(change) != fingerprint.of_mapping({"a": 1})


def test_a_mappings_fingerprint_does_not_depend_on_its_order() -> None:
    assert fingerprint.of_mapping({"a": 1, "b": 2}) == fingerprint.of_mapping({"b": 2, "a": 1})
