"""Each expectation, through Great Expectations itself: data that breaks it alone, and sound data that breaks none."""

import logging
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from manifests import make_manifest

from bc_tasks import manifest
from bc_tasks.config import ValidationConfig
from bc_tasks.expectations import EXPECTATIONS, Findings, check, page, scopes
from bc_tasks.expectations.scopes import IMAGE, MANIFEST
from bc_tasks.records import ExpectationOutcome, Leak

NUM_IMAGES = 300


@dataclass(frozen=True)
class World:
    """What `check` looks at."""

    candidate: pd.DataFrame
    previous: pd.DataFrame
    holdout_patient_ids: frozenset[str] = frozenset({"someone else"})
    holdout_source_stems: frozenset[str] = frozenset({"someone_else_1"})


SOUND = World(make_manifest(NUM_IMAGES), make_manifest(270))
FIRST = World(make_manifest(NUM_IMAGES), manifest.empty())
TWIN = SOUND.candidate.set_index("image_id", drop=False).loc["image-200"]
"""An image whose values other images take, where they should be unique."""


class _Complaints(logging.Handler):
    """Great Expectations logs what goes wrong while it renders, and goes on: here it must not."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


@pytest.fixture(autouse=True, scope="module")
def no_complaints() -> Iterator[None]:
    handler = _Complaints(logging.WARNING)
    logging.getLogger("great_expectations").addHandler(handler)
    yield
    logging.getLogger("great_expectations").removeHandler(handler)


def look(world: World, folder: Path, config: ValidationConfig | None = None) -> Findings:
    return check(
        world.candidate,
        config=config or ValidationConfig(),
        previous=world.previous,
        holdout_patient_ids=world.holdout_patient_ids,
        holdout_source_stems=world.holdout_source_stems,
        docs_folder=folder,
        title="A <night>",
    )


def broken(findings: Findings) -> list[str]:
    return [outcome.name for outcome in findings.outcomes if not outcome.passed]


def outcome_of(findings: Findings, name: str) -> ExpectationOutcome:
    return next(outcome for outcome in findings.outcomes if outcome.name == name)


def changed(world: World, column: str, value: Any, rows: Callable[[pd.DataFrame], Any] = lambda _: [0]) -> World:
    """Return a world whose candidate has another value in some rows; in the first row if none are chosen."""
    candidate = world.candidate.copy()
    candidate.loc[rows(candidate), column] = value
    return replace(world, candidate=candidate)


BAD_VALUES: dict[str, tuple[str, Any]] = {
    "label_known": ("label", pd.NA),
    "patient_id_known": ("patient_id", pd.NA),
    "image_id_known": ("image_id", pd.NA),
    "sha256_known": ("sha256", pd.NA),
    "pixel_sha256_known": ("pixel_sha256", pd.NA),
    "split_known": ("split", pd.NA),
    "shard_key_known": ("shard_key", pd.NA),
    "shard_row_known": ("shard_row", pd.NA),
    "label_one_of": ("label", 2),
    "view_one_of": ("view", "CCX"),
    "laterality_one_of": ("laterality", "left"),
    "density_one_of": ("density", "BI-RADS 2"),
    "split_one_of": ("split", "validation"),
    "image_id_unique": ("image_id", TWIN["image_id"]),
    "sha256_unique": ("sha256", TWIN["sha256"]),
    "pixel_sha256_unique": ("pixel_sha256", TWIN["pixel_sha256"]),
    "source_width_enough": ("source_width_px", 63),
    "source_height_enough": ("source_height_px", 63),
    "grey_min_in_range": ("grey_min", -1),
    "grey_max_in_range": ("grey_max", 4095),
    "not_constant": ("grey_std", 1.9),
    "not_black": ("black_share", 0.99),
    "age_plausible": ("age", 1957.0),
    "source_not_in_holdout": ("source_stem", "someone_else_1"),
}
"""For each expectation about images: a column, and a value that breaks this expectation and no other."""


SPOILED_WHOLES: dict[str, World] = {
    "columns": replace(SOUND, candidate=SOUND.candidate.drop(columns="density").assign(birads=4)),
    "key_known": changed(SOUND, "key", pd.NA),
    "key_unique": changed(SOUND, "key", TWIN["key"]),
    "num_images": replace(FIRST, candidate=make_manifest(99)),
    "class_balance": changed(FIRST, "label", 0, lambda rows: rows.index[rows.index % 40 != 0]),
    "cancer_in_splits": changed(SOUND, "label", 0, lambda rows: rows["split"] == "tuning"),
    "no_cancer_in_splits": changed(SOUND, "label", 1, lambda rows: rows["split"] == "tuning"),
    "patient_not_in_holdout": replace(SOUND, holdout_patient_ids=frozenset({"p7"})),
    "patient_in_one_split": changed(SOUND, "split", "tuning", lambda rows: rows["image_id"] == "image-21"),
    "not_shrunk": replace(SOUND, candidate=make_manifest(242)),
    "cancer_share_steady": changed(SOUND, "label", 1, lambda rows: rows.index % 4 == 0),
    "site_shares_steady": changed(SOUND, "site_id", "east", lambda rows: rows.index >= 200),
    "machine_shares_steady": changed(SOUND, "machine_id", "machine-9", lambda rows: rows.index >= 200),
    "few_bad": changed(
        SOUND, "quarantine_reason", "truncated", lambda rows: rows["image_id"].isin(["image-280", "image-290"])
    ),
    "few_leaks": changed(
        SOUND, "quarantine_reason", "split_near_copy", lambda rows: rows["image_id"].isin(["image-280", "image-290"])
    ),
}
"""For each expectation about the whole: a night that breaks this expectation and no other."""


@pytest.fixture(scope="module")
def sound_findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return look(SOUND, tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def spoiled_images(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """One night with an image for each of BAD_VALUES."""
    world = SOUND
    for name, (column, value) in BAD_VALUES.items():
        world = changed(world, column, value, rows_of(number_of(name)))
    return look(world, tmp_path_factory.mktemp("spoiled"), ValidationConfig(max_bad_share=1))


def rows_of(number: int) -> Callable[[pd.DataFrame], Any]:
    return lambda rows: rows["key"].str.endswith(f"_{number}.jpg")


def number_of(name: str) -> int:
    """Return which image breaks this expectation: each is another patient's."""
    return 3 + 3 * list(BAD_VALUES).index(name)


def test_every_expectation_says_why_and_is_covered_here() -> None:
    names = [entry.name for entry in EXPECTATIONS]
    assert len(set(names)) == len(names)
    assert set(names) == {*BAD_VALUES, *SPOILED_WHOLES}
    for entry in EXPECTATIONS:
        assert re.fullmatch(r"[A-Z].{20,}\.", entry.why), f"{entry.name} needs a why: a sentence for a human"
        assert (entry.name in BAD_VALUES) == (entry.scope == IMAGE)


def test_sound_data_passes_every_expectation(sound_findings: Findings) -> None:
    assert [outcome.name for outcome in sound_findings.outcomes] == [entry.name for entry in EXPECTATIONS]
    assert broken(sound_findings) == []
    assert sound_findings.bad_rows == {}
    assert not any("not checked" in outcome.seen for outcome in sound_findings.outcomes)


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_image_breaks_its_expectation_alone_and_is_named(name: str, spoiled_images: Findings) -> None:
    column, _ = BAD_VALUES[name]
    outcome = outcome_of(spoiled_images, name)
    suffix = f"_{number_of(name)}.jpg"
    key, detail = next(item for item in spoiled_images.bad_rows.items() if item[0].endswith(suffix))
    called = {"image_id_known": key, "image_id_unique": "image-200"}.get(name, f"image-{number_of(name)}")
    assert not outcome.passed
    assert outcome.severity == "row"
    assert sorted(outcome.image_ids) == sorted([called, "image-200"] if name.endswith("_unique") else [called])
    assert outcome.num_unexpected == len(outcome.image_ids)
    assert detail.startswith(f"{column} is ")
    assert detail.endswith(f"; wanted: {outcome.wanted}")
    assert "|" not in detail, "another expectation is broken too"


def test_bad_images_do_not_spoil_the_whole(spoiled_images: Findings) -> None:
    assert set(broken(spoiled_images)) == set(BAD_VALUES)
    num_bad = len(BAD_VALUES) + 1  # image 200 is the twin of three
    assert len(spoiled_images.bad_rows) == num_bad
    assert outcome_of(spoiled_images, "num_images").seen == f"{NUM_IMAGES - num_bad} images"


@pytest.mark.parametrize("name", SPOILED_WHOLES)
def test_a_spoiled_whole_breaks_its_expectation_alone(name: str, tmp_path: Path) -> None:
    findings = look(SPOILED_WHOLES[name], tmp_path)
    assert set(broken(findings)) == {name}
    assert outcome_of(findings, name).severity == "table"
    assert findings.bad_rows == {}


def test_nothing_more_is_looked_at_when_the_manifest_is_malformed(tmp_path: Path) -> None:
    findings = look(replace(SOUND, candidate=SOUND.candidate.drop(columns="key")), tmp_path)
    assert [outcome.name for outcome in findings.outcomes] == [
        entry.name for entry in EXPECTATIONS if entry.scope == MANIFEST
    ]
    assert outcome_of(findings, "columns").seen == "without key"
    assert '"key" in BatchData does not exist' in outcome_of(findings, "key_known").seen


def test_what_can_not_be_looked_at_stops_the_night(tmp_path: Path) -> None:
    findings = look(replace(SOUND, candidate=SOUND.candidate.assign(grey_std="forty")), tmp_path)
    outcome = outcome_of(findings, "not_constant")
    assert broken(findings) == ["not_constant"]
    assert outcome.severity == "table"
    assert outcome.seen.startswith("could not be looked at: ")
    assert "Traceback" not in (tmp_path / "index.html").read_text()


def test_an_empty_candidate_is_no_sound_candidate(tmp_path: Path) -> None:
    findings = look(replace(FIRST, candidate=manifest.empty()), tmp_path)
    assert broken(findings) == ["num_images", "class_balance", "cancer_in_splits", "no_cancer_in_splits"]
    assert outcome_of(findings, "class_balance").seen == "no image"


def test_what_is_odd_but_sound_passes(tmp_path: Path) -> None:
    world = replace(SOUND, candidate=make_manifest(244))
    world = changed(world, "quarantine_reason", "no_label", rows_of(243))  # leaves exactly 90 % of the images before
    world = changed(world, "label", pd.NA, rows_of(243))
    world = changed(world, "view", pd.NA, lambda rows: rows.index >= 0)
    world = changed(world, "site_id", pd.NA, lambda rows: rows.index >= 0)
    world = changed(world, "split", "holdout", lambda rows: rows["patient_id"] == "p7")
    stems = frozenset(world.candidate.loc[world.candidate["patient_id"] == "p7", "source_stem"])
    findings = look(replace(world, holdout_patient_ids=frozenset({"p7"}), holdout_source_stems=stems), tmp_path)
    assert broken(findings) == []
    assert outcome_of(findings, "not_shrunk").seen == "243 images, 270 before"
    assert outcome_of(findings, "source_not_in_holdout").seen == "so in all 240 images"
    assert outcome_of(findings, "site_shares_steady").seen.startswith("not checked: no image here")
    assert outcome_of(findings, "machine_shares_steady").seen == "so in all 3 machines"


def test_a_site_that_vanished_is_noticed(tmp_path: Path) -> None:
    before = SOUND.candidate.assign(site_id=["AABBC"[number % 5] for number in range(NUM_IMAGES)])
    now = before.assign(site_id=["BC"[number % 2] for number in range(NUM_IMAGES)])
    findings = look(replace(SOUND, candidate=now, previous=before), tmp_path)
    assert outcome_of(findings, "site_shares_steady").seen == "not so in 1 of 3 sites: A (40.0% before, 0.0% now)"


def test_the_first_snapshot_says_what_it_can_not_be_compared_with(tmp_path: Path) -> None:
    findings = look(FIRST, tmp_path)
    assert broken(findings) == []
    not_checked = [outcome.name for outcome in findings.outcomes if outcome.seen.startswith("not checked")]
    assert not_checked == ["not_shrunk", "cancer_share_steady", "site_shares_steady", "machine_shares_steady"]
    assert outcome_of(findings, "few_bad").seen == "so in all 300 images"
    assert "Not checked: there is no snapshot before this one." in (tmp_path / "index.html").read_text()


def test_the_configuration_decides(tmp_path: Path) -> None:
    strict = ValidationConfig(min_images=301, min_source_px=641, max_age_years=50)
    findings = look(FIRST, tmp_path, strict)
    assert set(broken(findings)) >= {"num_images", "source_width_enough", "age_plausible"}
    assert outcome_of(findings, "age_plausible").wanted == "ages are 18 to 50 years, or unknown"


@pytest.fixture(scope="module")
def hostile_night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, str]:
    """What was seen, and the page, of a night with many bad images, and with names that would run as scripts."""
    world = changed(SOUND, "grey_std", 0.0, lambda rows: rows.index < 50)
    world = changed(world, "image_id", "<script>alert(1)</script>")
    world = changed(world, "site_id", "<script>alert(2)</script>", lambda rows: rows.index >= 0)
    world = changed(world, "age", 1957.0)
    world = changed(world, "view", "Jane Doe")
    folder = tmp_path_factory.mktemp("hostile")
    return look(world, folder), (folder / "index.html").read_text()


def test_a_bad_batch_is_named_by_ten_images(hostile_night: tuple[Findings, str]) -> None:
    findings, page = hostile_night
    outcome = outcome_of(findings, "not_constant")
    assert outcome.num_unexpected == len(findings.bad_rows) == 50
    assert len(outcome.image_ids) == 10
    assert len(set(re.findall(r"image-\d+", page))) == 9  # and one that is called otherwise


def test_data_docs_and_records_hold_ids_and_no_other_word_of_a_patient(hostile_night: tuple[Findings, str]) -> None:
    findings, page = hostile_night
    assert {"age_plausible", "view_one_of"} <= set(broken(findings))
    texts = [page, *(outcome.model_dump_json() for outcome in findings.outcomes)]
    assert not any("1957" in text or "Jane" in text for text in texts)


def test_data_docs_run_no_script_and_load_nothing(hostile_night: tuple[Findings, str]) -> None:
    _, page = hostile_night
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;script&gt;alert(2)" in page
    assert not re.search(r"<script|<link|<img|<iframe|https?://|@import|url\(|\son\w+=", page)


def test_data_docs_are_one_page_that_shows_each_expectation_with_its_why(
    tmp_path: Path, sound_findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", _refuse)
    monkeypatch.setattr(socket, "getaddrinfo", _refuse)
    assert look(SOUND, tmp_path) == sound_findings
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    page = (tmp_path / "index.html").read_text()
    assert "A &lt;night&gt;" in page
    assert "Every expectation holds." in page
    for outcome in sound_findings.outcomes:
        assert f"{outcome.wanted}<br>{outcome.why}" in page
        assert f">{outcome.seen}<" in page


def _refuse(*_: object) -> None:
    raise AssertionError("Great Expectations called somebody")


def test_a_copy_of_a_picture_that_is_there_already_is_no_bad_image() -> None:
    rows = make_manifest(4).assign(quarantine_reason=[None, "duplicate_content", "truncated", "conflicting_labels"])
    assert scopes.is_bad(rows).tolist() == [False, False, True, True]


def test_leaks_are_counted_on_their_own_and_a_holdouts_patient_who_comes_again_not_at_all() -> None:
    rows = make_manifest(3).assign(quarantine_reason=["holdout_near_copy", "holdout_patient", None])
    assert scopes.is_bad(rows).tolist() == [False, False, False]
    assert scopes.is_leak(rows).tolist() == [True, False, False]


LEAK = Leak(
    reason="holdout_near_copy",
    key="inbox/b/<i>1</i>.jpg",
    image_id="image-1",
    detail="a near copy (mirrored) of holdout image image-2 of patient Jane",
    other_image_id="image-2",
    transform="mirrored",
    thumbnail="QUJD",
    other_thumbnail="REVG",
)


def test_data_docs_show_leaks_in_pairs_and_name_no_patient(tmp_path: Path) -> None:
    unseen = LEAK.model_copy(update={"reason": "holdout_pixels", "thumbnail": "", "other_thumbnail": ""})
    routine = LEAK.model_copy(update={"reason": "holdout_patient", "key": "routine"})
    page.write(tmp_path / "page.html", "A night", {}, (LEAK, *[unseen] * 60, routine))
    text = (tmp_path / "page.html").read_text()
    assert re.findall(r'src="([^"]*)"', text) == ["data:image/jpeg;base64,QUJD", "data:image/jpeg;base64,REVG"]
    assert "image-1<span>inbox/b/&lt;i&gt;1&lt;/i&gt;.jpg</span>" in text
    assert "image-2<span>near copy, of the holdout: mirrored</span>" in text
    assert "The first 50 of 61; the manifest has all." in text
    assert "1 further images of patients who are in the holdout" in text
    assert "routine</span>" not in text
    assert "Jane" not in text


def test_data_docs_tell_patients_of_the_holdout_from_doubled_ids_and_what_was_learnt(tmp_path: Path) -> None:
    leaks = [
        LEAK.model_copy(update={"reason": "holdout_patient", "was_learnt": True}),
        LEAK.model_copy(update={"reason": "holdout_patient"}),
        LEAK.model_copy(update={"reason": "duplicate_image_id"}),
    ]
    page.write(tmp_path / "page.html", "A night", {}, leaks)
    text = " ".join((tmp_path / "page.html").read_text().split())
    assert "2 further images of patients who are in the holdout" in text
    assert "1 images with the image id of another of the holdout" in text
    assert "1 images that earlier snapshots used are leaks: versions trained on them are measured on what" in text
    assert "never learnt from" not in text


def test_a_leak_that_was_let_pass_before_is_no_leak_of_tonight_though_its_label_was_corrected() -> None:
    before = make_manifest(4).assign(quarantine_reason=["holdout_near_copy", "holdout_near_copy", None, None])
    now = before.assign(label=1 - before["label"], quarantine_reason=["holdout_near_copy"] * 3 + [None])
    now.loc[1, "sha256"] = "other bytes"
    night = scopes.night(now, before, ())
    assert isinstance(night, pd.DataFrame)
    assert night["is_leak"].tolist() == [False, True, True, False]


def test_data_docs_of_a_night_without_leaks_speak_of_none(hostile_night: tuple[Findings, str]) -> None:
    assert "Leaks" not in hostile_night[1]
