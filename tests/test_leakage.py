"""The leak guard: whatever the disguise, nothing of the holdout is learnt from, and honest images are left alone."""

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import manifest
from bc_tasks.leaks import leakage
from bc_tasks.leaks.leakage import Guarded
from bc_tasks.mammogram import DISGUISED_LEAKS, LEAKS, QuarantineReason


def _row(key: str, patient_id: str, picture: str, **changes: Any) -> dict[str, Any]:
    """An image of a patient; `picture` stands for its pixels."""
    own = {"key": key, "patient_id": patient_id, "pixel_sha256": picture, "image_id": f"i-{key}", "sha256": f"f-{key}"}
    rest = {"source_stem": f"s-{key}", "label": 1, "grey_std": 40.0, "split": "training", "near_copies": "{}"}
    return own | rest | changes


def _rows(*rows: dict[str, Any]) -> pd.DataFrame:
    return manifest.conform(pd.DataFrame(rows, columns=list(manifest.COLUMN_NAMES)))


def _copying(**hows: str) -> str:
    return json.dumps(hows)


HOLDOUT = _rows(_row("h/1", "H", "picture-1"), _row("h/2", "H2", "picture-2", source_stem="stem-2"))


def _guard(*rows: dict[str, Any]) -> Guarded:
    return leakage.from_holdout(_rows(*rows), HOLDOUT)


def _reasons(guarded: Guarded) -> dict[str, str]:
    return {key: leak.reason for key, leak in guarded.leaks.items()}


def test_the_holdouts_own_images_are_no_leaks_wherever_they_lie_now() -> None:
    moved = _row("elsewhere/1", "H", "picture-1")
    renamed = _row("h/2", "H2-new", "picture-2", source_stem="stem-2")
    guarded = _guard(_row("h/1", "H", "picture-1"), moved, renamed)
    assert guarded.leaks == {}
    assert guarded.aliases == {"H2-new"}


def test_a_follow_up_of_a_holdout_patient_is_set_aside_as_routine() -> None:
    guarded = _guard(_row("a", "H", "follow-up", near_copies=_copying(**{"picture-1": "mirrored"})))
    assert _reasons(guarded) == {"a": "holdout_patient"}
    assert guarded.leaks["a"].detail == "patient H is in the holdout"
    assert QuarantineReason.HOLDOUT_PATIENT not in DISGUISED_LEAKS


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"picture": "picture-1"}, "holdout_pixels", "the same picture as holdout image i-h/1 of patient H"),
        (
            {"near_copies": _copying(**{"picture-1": "mirrored, turned by 90 degrees"})},
            "holdout_near_copy",
            "a near copy (mirrored, turned by 90 degrees) of holdout image i-h/1 of patient H",
        ),
        ({"source_stem": "stem-2"}, "holdout_source", "it has the source of holdout image i-h/2 of patient H2"),
    ],
    ids=["pixels", "near copy", "source"],
)
def test_a_disguised_image_says_whose_it_is_and_how(changes: dict[str, str], reason: str, detail: str) -> None:
    guarded = _guard(_row("a", "X", **{"picture": "new", **changes}), _row("b", "Y", "other"))
    assert _reasons(guarded) == {"a": reason}
    leak = guarded.leaks["a"]
    assert leak.detail == detail
    assert (leak.image_id, leak.other_image_id) == ("i-a", "i-h/2" if reason == "holdout_source" else "i-h/1")
    assert reason in DISGUISED_LEAKS


@pytest.mark.parametrize(
    "tell_tale", [{"picture": "picture-1"}, {"near_copies": _copying(**{"picture-1": "inverted"})}]
)
@pytest.mark.parametrize("label", [1, None], ids=["used", "set aside already"])
def test_all_else_of_a_patient_who_has_a_picture_of_the_holdout_is_a_leak_too(
    tell_tale: dict[str, str], label: int | None
) -> None:
    shown = _row("a", "X", **{"picture": "new", **tell_tale}, quarantine_reason=None if label else "no_label")
    guarded = _guard(shown, _row("b", "X", "hers too"))
    assert guarded.aliases == {"X"}
    assert _reasons(guarded).pop("b") == "holdout_patient"
    assert guarded.leaks["b"].detail.startswith("patient X is in the holdout under another name: a is ")
    assert ("a" in guarded.leaks) == (label is not None)


def test_who_shows_a_follow_up_of_the_holdouts_patient_is_found_over_any_number_of_names() -> None:
    guarded = _guard(
        _row("a", "H", "follow-up"),
        _row("b", "X", "follow-up"),
        _row("c", "X", "another"),
        _row("d", "Y", "another"),
        _row("e", "Y", "a third"),
    )
    assert guarded.aliases == {"X", "Y"}
    assert _reasons(guarded) == {
        "a": "holdout_patient",
        "b": "holdout_pixels",
        "c": "holdout_patient",
        "d": "holdout_pixels",
        "e": "holdout_patient",
    }
    assert guarded.leaks["d"].detail == "the same picture as image i-c of patient X"


def test_likeness_does_not_lead_from_one_name_to_the_next_without_end() -> None:
    guarded = _guard(
        _row("a", "H", "follow-up"),
        _row("b", "X", "its mirror image", near_copies=_copying(**{"follow-up": "mirrored"})),
        _row("c", "X", "another"),
        _row("d", "Y", "like another", near_copies=_copying(another="turned by 3 degrees")),
    )
    assert guarded.aliases == {"X"}
    assert _reasons(guarded) == {"a": "holdout_patient", "b": "holdout_near_copy", "c": "holdout_patient"}


def test_an_image_id_of_the_holdout_is_nobody_elses() -> None:
    guarded = _guard(_row("a", "X", "new", image_id="i-h/1"))
    assert _reasons(guarded) == {"a": "duplicate_image_id"}
    assert guarded.leaks["a"].detail == "holdout image i-h/1 of patient H has this id"


@pytest.mark.parametrize(
    "row",
    [
        _row("a", "T1", "new", tag_patient_id="T1"),
        _row("a", "X", "new", tag_patient_id="T1"),
        _row("a", "T1", "new"),
        _row("a", "X", "new", tag_patient_id="H"),
    ],
    ids=["named by the tag alone", "named by people too", "called so by people", "the tag says the holdout's name"],
)
def test_a_tag_that_names_a_patient_of_the_holdout_makes_its_bearer_that_patient(row: dict[str, Any]) -> None:
    fixed = HOLDOUT.assign(tag_patient_id=["T1", None])
    guarded = leakage.from_holdout(_rows(row, _row("b", row["patient_id"], "hers too"), _row("c", "Y", "q")), fixed)
    assert _reasons(guarded) == {"a": "holdout_patient", "b": "holdout_patient"}
    assert guarded.aliases == {row["patient_id"]}


def test_a_tag_that_many_patients_share_names_nobody() -> None:
    fixed = HOLDOUT.assign(tag_patient_id=["ANON", None])
    rows = [_row(name, name, name, tag_patient_id="ANON") for name in ("X", "Y", "Z")]
    assert leakage.from_holdout(_rows(*rows), fixed).leaks == {}
    assert set(leakage.from_holdout(_rows(*rows[:2]), fixed).leaks) == {"X", "Y"}


def test_names_are_followed_over_pictures_and_tags_in_turn() -> None:
    guarded = _guard(
        _row("a", "X", "picture-1"),
        _row("b", "X", "another", tag_patient_id="D"),
        _row("c", "Y", "a third", tag_patient_id="D"),
        _row("d", "Z", "a third", quarantine_reason="no_label"),
        _row("e", "Z", "a fourth"),
    )
    assert guarded.aliases == {"X", "Y", "Z"}
    assert set(guarded.leaks) == {"a", "b", "c", "e"}


def test_a_black_image_makes_nobody_another() -> None:
    guarded = _guard(_row("a", "H", "black", grey_std=0.0), _row("b", "X", "black", grey_std=0.0))
    assert _reasons(guarded) == {"a": "holdout_patient"}


def test_a_copy_is_seen_from_whichever_of_the_two_has_noted_it() -> None:
    copies = leakage.copies_noted(_rows(_row("a", "X", "p", near_copies=_copying(q="mirrored")), _row("b", "Y", "q")))
    assert copies == {"p": {"q": "mirrored"}, "q": {"p": "mirrored"}}


# Between training and tuning.

COPY = {"near_copies": _copying(p="as it is")}


def _between(rows: pd.DataFrame, base: pd.DataFrame | None = None) -> dict[str, str]:
    leaks = leakage.between_splits(rows, manifest.empty() if base is None else base)
    return {key: leak.detail for key, leak in leaks.items()}


def test_of_near_copies_across_the_splits_the_one_that_was_used_stays() -> None:
    base = _rows(_row("z", "X", "p"))
    tonight = _rows(_row("a", "Y", "q", split="tuning", **COPY), _row("z", "X", "p"))
    said = "near copy (as it is) of image i-z of patient X in training; it would be in tuning"
    for _ in range(3):
        assert _between(tonight, base) == {"a": said}
        base = leakage.set_aside(tonight, leakage.between_splits(tonight, base))
        assert base.set_index("key")["quarantine_reason"].isna().to_dict() == {"a": False, "z": True}


def test_of_near_copies_that_come_together_the_first_by_key_stays() -> None:
    assert list(_between(_rows(_row("a", "Y", "q", split="tuning", **COPY), _row("z", "X", "p")))) == ["z"]


@pytest.mark.parametrize(
    "other",
    [{"split": "training"}, {"split": "tuning", "quarantine_reason": "failed_expectation"}, {"split": "holdout"}],
    ids=["in one split", "of one that is set aside", "of the holdout's own"],
)
def test_a_near_copy_that_leaks_nothing_is_left_alone(other: dict[str, str]) -> None:
    assert _between(_rows(_row("a", "Y", "q", **COPY), _row("b", "X", "p", **other))) == {}


def test_a_copy_whose_original_is_gone_is_a_leak_no_more() -> None:
    assert _between(_rows(_row("a", "Y", "q", split="tuning", **COPY))) == {}


# Whatever comes.

PEOPLE, PICTURES = ["H", "X", "Y", "Z"], ["picture-1", "picture-2", "p", "q", "r", "t"]
SPLITS = {"H": "holdout", "X": "training", "Y": "tuning", "Z": "training"}
NOTES = st.dictionaries(st.sampled_from(PICTURES), st.sampled_from(["mirrored", "inverted"]), max_size=2)
IMAGE = st.tuples(
    st.sampled_from(PEOPLE), st.sampled_from(PICTURES), st.sampled_from(["stem-1", "stem-2", "stem-3"]), NOTES
)


@settings(deadline=None, max_examples=40)
@given(st.lists(IMAGE, max_size=8), st.integers(0, 8))
def test_nothing_that_is_learnt_from_has_anything_of_the_holdout_and_no_copy_stands_on_both_sides(
    images: list[tuple[str, str, str, dict[str, str]]], num_before: int
) -> None:
    tonight = _rows(
        *(
            _row(f"k{number}", who, what, source_stem=stem, split=SPLITS[who], near_copies=json.dumps(notes))
            for number, (who, what, stem, notes) in enumerate(images)
        )
    )
    guarded = leakage.from_holdout(tonight, HOLDOUT)
    split = tonight["split"].mask(tonight["patient_id"].isin(guarded.aliases), "holdout")
    rest = leakage.set_aside(tonight.assign(split=split), guarded.leaks)
    rest = leakage.set_aside(rest, leakage.between_splits(rest, tonight.head(num_before)))
    assert set(rest["quarantine_reason"].dropna()) <= LEAKS
    learnt_from = manifest.usable(rest)
    learnt_from = learnt_from[learnt_from["split"] != "holdout"]
    for column in ("patient_id", "source_stem", "pixel_sha256"):
        assert not learnt_from[column].isin(HOLDOUT[column]).any()
    assert not leakage.is_copy_of(learnt_from, frozenset(HOLDOUT["pixel_sha256"])).any()
    assert not learnt_from["patient_id"].isin(guarded.aliases).any()
    copies = leakage.copies_noted(tonight)
    sides = {split: set(group["pixel_sha256"]) for split, group in learnt_from.groupby("split")}
    for digest in sides.get("training", set()):
        assert sides.get("tuning", set()).isdisjoint(copies.get(digest, {}))
