"""Each kind of error says to a shell, a pod and Airflow what it is, and whether trying again can help."""

import pickle

import pytest

from bc_tasks import errors
from bc_tasks.errors import BcError, ImageError, InfrastructureError, Interrupted
from bc_tasks.mammogram import QuarantineReason

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BcError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_leaves_with_a_code_that_says_neither_success_nor_a_crash_of_python(kind: type[BcError]) -> None:
    assert 64 <= kind.exit_code <= 78 or kind is Interrupted  # whose code is a shell's own for SIGTERM


def test_only_what_a_retry_can_help_is_retried() -> None:
    assert [kind for kind in KINDS if kind.retryable] == [InfrastructureError, Interrupted]
    assert {kind.exit_code for kind in KINDS if kind.retryable}.isdisjoint(
        kind.exit_code for kind in KINDS if not kind.retryable
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_error(kind: type[BcError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_an_image_error_carries_its_reason_and_what_was_seen() -> None:
    error = ImageError(QuarantineReason.TRUNCATED, "12 of 40 bytes")
    assert (error.reason, error.detail, str(error)) == ("truncated", "12 of 40 bytes", "truncated: 12 of 40 bytes")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ImageError], ids=lambda kind: kind.__name__)
def test_an_error_comes_back_whole_from_a_worker_process(kind: type[BcError]) -> None:
    assert str(pickle.loads(pickle.dumps(kind("what was seen")))) == "what was seen"  # noqa: S301  # our own bytes
