"""Of copies exactly one is used, always the same one; what people say wins over a file's tags."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import identity, manifest

FACTS = {"batch": "a", "source_stem": "x", "label": 1, "shard_key": "pixels/0/0.npy", "shard_row": 0}


def _row(key: str, **changes: Any) -> dict[str, Any]:
    """An image unlike all others, but for what is changed."""
    own = {"key": key, "sha256": f"s-{key}", "pixel_sha256": f"p-{key}", "image_id": f"i-{key}", "patient_id": key}
    return own | FACTS | changes


def _rows(*rows: dict[str, Any]) -> pd.DataFrame:
    return manifest.conform(pd.DataFrame(rows, columns=list(manifest.COLUMN_NAMES)))


def _reasons(tonight: pd.DataFrame, base: pd.DataFrame | None = None) -> dict[str, str | None]:
    judged = identity.separate(tonight, manifest.empty() if base is None else base)
    return dict(
        zip(
            judged["key"],
            judged["quarantine_reason"].astype(object).where(judged["quarantine_reason"].notna(), None),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("alike", "reason"),
    [
        ({"sha256": "s", "pixel_sha256": "p"}, "duplicate_content"),
        ({"pixel_sha256": "p"}, "duplicate_content"),
        ({"image_id": "i"}, "duplicate_image_id"),
    ],
    ids=["file", "picture", "id"],
)
def test_of_copies_that_come_together_the_first_by_key_stays(alike: dict[str, str], reason: str) -> None:
    tonight = _rows(_row("b", **alike), _row("a", **alike), _row("c", **alike), _row("d"))
    assert _reasons(tonight) == {"a": None, "b": reason, "c": reason, "d": None}


@pytest.mark.parametrize("alike", [{"sha256": "s", "pixel_sha256": "p"}, {"pixel_sha256": "p"}, {"image_id": "i"}])
def test_of_copies_the_one_that_was_used_before_stays_night_after_night(alike: dict[str, str]) -> None:
    base = _rows(_row("z", **alike))
    tonight = _rows(_row("a", **alike), _row("z", **alike))
    for _ in range(3):
        base = identity.separate(tonight, base)
        assert base.set_index("key")["quarantine_reason"].isna().to_dict() == {"a": False, "z": True}


def test_a_copy_takes_over_when_the_one_that_was_used_is_withdrawn() -> None:
    base = identity.separate(_rows(_row("a", sha256="s"), _row("b", sha256="s")), manifest.empty())
    assert _reasons(_rows(_row("b", sha256="s")), base) == {"b": None}


def test_an_overwritten_image_does_not_keep_its_right_to_a_picture() -> None:
    base = _rows(_row("a", sha256="old"), _row("b", sha256="s"))
    assert _reasons(_rows(_row("a", sha256="s"), _row("b", sha256="s")), base) == {"a": "duplicate_content", "b": None}


def test_an_overwritten_image_keeps_its_right_to_its_id() -> None:
    base = _rows(_row("b", sha256="old", image_id="i"))
    tonight = _rows(_row("a", image_id="i"), _row("b", sha256="new", image_id="i"))
    assert _reasons(tonight, base) == {"a": "duplicate_image_id", "b": None}


def test_an_image_that_failed_validation_is_not_replaced_by_its_copy() -> None:
    base = _rows(_row("z", sha256="s", quarantine_reason="failed_expectation"))
    assert _reasons(_rows(_row("a", sha256="s"), _row("z", sha256="s")), base) == {"a": "duplicate_content", "z": None}


def test_one_picture_with_two_labels_costs_both() -> None:
    tonight = _rows(_row("a", pixel_sha256="p", label=0), _row("b", pixel_sha256="p", label=1), _row("c"))
    assert _reasons(tonight) == {"a": "conflicting_labels", "b": "conflicting_labels", "c": None}


def test_a_conflict_costs_even_what_was_used_before() -> None:
    base = _rows(_row("a", pixel_sha256="p", label=0))
    tonight = _rows(_row("a", pixel_sha256="p", label=0), _row("b", pixel_sha256="p", label=1))
    assert _reasons(tonight, base) == {"a": "conflicting_labels", "b": "conflicting_labels"}


def test_what_is_set_aside_already_conflicts_with_nobody() -> None:
    tonight = _rows(
        _row("a", pixel_sha256="p", label=0, quarantine_reason="no_label"), _row("b", pixel_sha256="p", label=1)
    )
    assert _reasons(tonight) == {"a": "no_label", "b": None}


SMALL = st.sampled_from(["1", "2"])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(SMALL, SMALL, st.sampled_from([0, 1])), max_size=6), st.randoms(use_true_random=False))
def test_what_is_left_has_no_copies_and_does_not_depend_on_the_order(
    images: list[tuple[str, str, int]], random: Any
) -> None:
    rows = [
        _row(str(number), sha256=f"{picture}-{number % 2}", pixel_sha256=picture, image_id=image_id, label=label)
        for number, (picture, image_id, label) in enumerate(images)
    ]
    shuffled = rows.copy()
    random.shuffle(shuffled)
    usable = manifest.usable(identity.separate(_rows(*rows), manifest.empty()))
    for column in ("sha256", "pixel_sha256", "image_id"):
        assert usable[column].is_unique
    assert _reasons(_rows(*rows)) == _reasons(_rows(*shuffled))


def _complete(**facts: Any) -> dict[str, Any]:
    (row,) = identity.complete(
        _rows({"key": "k", "source_stem": "stem", "sha256": "0123456789abcdef"} | facts)
    ).to_dict("records")
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}


@pytest.mark.parametrize(
    ("name", "said", "tag"), [("patient_id", "P1", "P2"), ("view", "CC", "MLO"), ("age", 50.0, 61.0)]
)
def test_tags_fill_what_people_leave_out_and_nothing_else(name: str, said: Any, tag: Any) -> None:
    assert _complete(**{f"tag_{name}": tag})[name] == tag
    assert _complete(**{name: said, f"tag_{name}": tag})[name] == said


def test_a_patient_that_nobody_names_is_the_source() -> None:
    assert _complete()["patient_id"] == "stem"


def test_an_image_without_an_id_gets_one_from_its_source_and_content() -> None:
    assert _complete()["image_id"] == "stem-0123456789ab"
    assert _complete(image_id="7")["image_id"] == "7"


def test_completing_twice_changes_nothing() -> None:
    once = identity.complete(_rows(_row("a", tag_view="CC", patient_id=None, image_id=None)))
    pd.testing.assert_frame_equal(identity.complete(once), once)
