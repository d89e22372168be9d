"""Each look at a holdout is entered once, spends its share of the error budget, and can't be undone unseen."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_cases import look
from hypothesis import given
from hypothesis import strategies as st
from inboxes import local_storage
from night_records import make_night

from bc_tasks import ledger
from bc_tasks.config import RegistryConfig
from bc_tasks.errors import DataError
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Evaluation, Look, ScoredImage
from bc_tasks.storage import join

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
POLICY = GateConfig(total_error=0.05, expected_looks=5)


@pytest.fixture
def compared(tmp_path: Path) -> Evaluation:
    """An evaluation with a champion."""
    return _evaluation(tmp_path, champion_version="3")


def _evaluation(folder: Path, champion_version: str | None) -> Evaluation:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    return make_night(
        "s3://images/runs/a",
        mlflow_run_id="m",
        registry=RegistryConfig(),
        weights=weights,
        champion_version=champion_version,
    ).evaluation


def _look(uri: str, evaluation: Evaluation, run: str, policy: GateConfig = POLICY) -> Look:
    return ledger.look(local_storage(), uri, evaluation, policy, run_uri=join(uri, "runs", run), now=NOW)


def test_every_run_spends_an_equal_share_until_nothing_is_left(file_data_uri: str, compared: Evaluation) -> None:
    looks = [_look(file_data_uri, compared, f"night-{number}") for number in range(7)]
    assert [entry.number for entry in looks] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry.error for entry in looks] == [0.01] * 5 + [0.0] * 2
    assert looks[-1].spent == pytest.approx(0.05)
    assert ledger.read(local_storage(), file_data_uri, compared.challenger.holdout_fingerprint) == tuple(looks)
    assert "worn out" in ledger.sentence(looks, POLICY)
    assert "leaves 2 comparisons" in ledger.sentence(looks[:3], POLICY)
    assert "leaves 5 comparisons" in ledger.sentence([], POLICY)


def test_a_run_that_is_tried_again_has_looked_once(file_data_uri: str, compared: Evaluation) -> None:
    first = _look(file_data_uri, compared, "a")
    _look(file_data_uri, compared, "b")
    assert _look(file_data_uri, compared, "a") == first
    assert len(ledger.read(local_storage(), file_data_uri, first.holdout_fingerprint)) == 2


def test_a_run_that_looks_at_other_models_has_looked_again(file_data_uri: str, compared: Evaluation) -> None:
    uncompared = compared.model_copy(update={"champion": None, "champion_problem": "its weights are gone"})
    assert _look(file_data_uri, uncompared, "a").error == 0
    mended = _look(file_data_uri, compared, "a")
    assert (mended.number, mended.error) == (2, 0.01)
    other = compared.challenger.model_copy(update={"weights_sha256": "0" * 64})
    again = _look(file_data_uri, compared.model_copy(update={"challenger": other}), "a")
    assert (again.number, again.error) == (3, 0.01)


def test_a_budget_that_is_raised_later_gives_nothing_more_and_what_is_left_can_be_spent(
    file_data_uri: str, compared: Evaluation
) -> None:
    for number in range(4):
        _look(file_data_uri, compared, f"night-{number}")
    wider = GateConfig(total_error=0.4, expected_looks=5)
    assert _look(file_data_uri, compared, "wider", wider).error == pytest.approx(0.01), "what was left"
    assert _look(file_data_uri, compared, "wider still", wider).error == 0


def test_a_look_that_compares_nothing_is_counted_and_spends_nothing(file_data_uri: str, tmp_path: Path) -> None:
    entry = _look(file_data_uri, _evaluation(tmp_path, champion_version=None), "a")
    assert (entry.number, entry.error, entry.spent) == (1, 0, 0)


def test_of_runs_that_look_at_once_none_spends_what_another_has(file_data_uri: str, compared: Evaluation) -> None:
    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(lambda number: _look(file_data_uri, compared, f"night-{number}"), range(8)))
    assert sorted(entry.number for entry in looks) == list(range(1, 9))
    assert sum(entry.error for entry in looks) == pytest.approx(0.05)
    assert len(ledger.read(local_storage(), file_data_uri, looks[0].holdout_fingerprint)) == 8


def test_another_holdout_begins_anew(file_data_uri: str, compared: Evaluation) -> None:
    for number in range(6):
        _look(file_data_uri, compared, f"night-{number}")
    other = compared.challenger.model_copy(update={"holdout_fingerprint": "e" * 64})
    entry = _look(file_data_uri, compared.model_copy(update={"challenger": other}), "after")
    assert (entry.number, entry.error) == (1, 0.01)


@pytest.mark.parametrize("change", ["removed", "cheaper"])
def test_a_look_that_was_removed_or_changed_is_noticed(file_data_uri: str, compared: Evaluation, change: str) -> None:
    looks = [_look(file_data_uri, compared, f"night-{number}") for number in range(3)]
    storage, folder = local_storage(), ledger.folder_uri(file_data_uri, looks[0].holdout_fingerprint)
    uri = join(folder, "000002.json")
    if change == "removed":
        storage.delete(uri)
    else:
        cheaper = looks[1].model_copy(update={"error": 0.0, "spent": looks[0].spent})
        storage.write(uri, cheaper.model_dump_json().encode())
    with pytest.raises(DataError, match=r"the ledger under .* was changed: its look"):
        _look(file_data_uri, compared, "after")


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 30), st.floats(0.001, 0.4))
def test_all_looks_together_never_spend_more_than_the_budget_and_waste_none(
    compares: list[bool], expected: int, total: float
) -> None:
    policy = GateConfig(total_error=total, expected_looks=expected, num_resamples=100_000)
    looks: list[Look] = []
    for number, compared in enumerate(compares, start=1):
        error = ledger.allowance(looks, policy) if compared else 0.0
        spent = (looks[-1].spent if looks else 0.0) + error
        looks.append(look(number, error=error, spent=spent, total_error=total))
    num_compared = sum(compares)
    spent = looks[-1].spent if looks else 0.0
    assert spent <= total * (1 + 1e-9)
    assert spent == pytest.approx(min(num_compared, expected) * total / expected)


def test_the_first_champion_is_remembered_with_its_scores(file_data_uri: str, compared: Evaluation) -> None:
    storage, first = local_storage(), compared.champion
    assert first is not None
    assert ledger.first_champion(storage, file_data_uri, None) is None
    assert ledger.first_champion(storage, file_data_uri, first) == first
    later = first.model_copy(update={"name": "champion, version 9"})
    assert ledger.first_champion(storage, file_data_uri, later) == first
    assert ledger.read(storage, file_data_uri, first.holdout_fingerprint) == (), "it is no look"


def test_a_champion_whose_scores_are_no_numbers_is_not_remembered(file_data_uri: str, compared: Evaluation) -> None:
    assert compared.champion is not None
    bad = ScoredImage(image_id="I", patient_id="P", label=1, probability=float("nan"))
    broken = compared.champion.model_copy(update={"scores": (bad,)})
    assert ledger.first_champion(local_storage(), file_data_uri, broken) is None
    assert ledger.first_champion(local_storage(), file_data_uri, compared.champion) == compared.champion
