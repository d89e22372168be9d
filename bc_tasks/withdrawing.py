"""Withdraws a patient: records it, and says what that changes, what it does not, and who saw them."""

from dataclasses import dataclass
from datetime import datetime

from bc_tasks import withdrawals
from bc_tasks.errors import ConfigError
from bc_tasks.proof import where_used
from bc_tasks.proof.where_used import Uses
from bc_tasks.storage import Storage
from bc_tasks.withdrawals import MAX_REASON, Withdrawal

OF_THE_HOLDOUT = (
    "{patient_id} is in the holdout, which is fixed: models are still measured on them. The withdrawal is recorded: "
    "nothing will be learnt from them. To take them out of the measuring too, start a new data_uri with a new holdout, "
    "and copy {data_uri}/withdrawals/ into it first"
)


@dataclass(frozen=True)
class Outcome:
    """The withdrawal that stands now, whether it is a new one, and where the patient was used."""

    withdrawal: Withdrawal
    is_new: bool
    uses: Uses

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to tell who asked for it."""
        one, uses = self.withdrawal, self.uses
        recorded = f"{one.withdrawn_at:%Y-%m-%d %H:%M} UTC by {one.withdrawn_by}: {one.reason}"
        if self.is_new:
            first = f"{one.patient_id} is withdrawn, {recorded}"
        else:
            first = f"{one.patient_id} was withdrawn before, {recorded}. Nothing was changed."
        ahead = (
            "From the next night on, no snapshot uses their images, whatever is in the inbox; a night under way goes "
            "on with what it has taken in. Remove their images from the inbox."
        )
        return (first, ahead, _behind(uses), _models(uses))


def withdraw(
    storage: Storage, data_uri: str, patient_id: str, *, reason: str, by: str, now: datetime, unknown_ok: bool = False
) -> Outcome:
    """Record that a patient was withdrawn; done twice, the first record stands.

    Raises:
        ConfigError: there is no reason, or nobody who says so, or no such patient and not `unknown_ok`.
        DataError: a manifest or a record can't be read.
    """
    if not 0 < len(reason.strip()) <= MAX_REASON:
        raise ConfigError(
            f"a withdrawal needs a reason of 1 to {MAX_REASON} characters: --reason 'request 2026-114'; name nobody"
        )
    if not by:
        raise ConfigError("a withdrawal needs who answers for it, and this machine doesn't know you: --by NAME")
    uses = where_used.find(storage, data_uri, patient_id)
    if uses.withdrawal is not None:
        return Outcome(uses.withdrawal, is_new=False, uses=uses)
    if not uses.is_known and not unknown_ok:
        raise ConfigError(
            f"no snapshot under {data_uri} holds {patient_id!r}, nor does the holdout: look at the spelling; if their "
            "images are still to come, add --unknown-ok"
        )
    withdrawal = Withdrawal(
        patient_id=patient_id,
        reason=reason.strip(),
        withdrawn_at=now,
        withdrawn_by=by,
        pixel_sha256=tuple(sorted(uses.pixel_digests)),
    )
    standing = withdrawals.write(storage, data_uri, withdrawal)
    return Outcome(standing, is_new=standing == withdrawal, uses=uses)


def _behind(uses: Uses) -> str:
    numbers = [one.number or 0 for one in uses.snapshots if one.num_images]
    if not numbers:
        return "No committed snapshot has used them."
    return (
        f"{_count(len(numbers), 'snapshot')} used them, the last is number {max(numbers)}; they stay as they are, so "
        f"that what was learnt can be proven. Their pixels stay in {_count(len(uses.shard_keys), 'object')} below "
        "pixels/, with those of others, and what is known of these below near-copies/. Where the law wants that erased "
        "too: start a new data_uri from the inbox without them, and delete this one; registered versions keep working."
    )


def _models(uses: Uses) -> str:
    if not uses.models:
        return "No model saw them."
    versions = f"registered: version {', '.join(uses.versions)}" if uses.versions else "none of them registered"
    return f"{_count(len(uses.models), 'model')} saw them, {versions}. See: bc where-used {uses.patient_id}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
