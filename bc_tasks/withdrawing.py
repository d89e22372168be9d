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

_TRACES = (
    "Of nights past, runs/*/leaks.json and the Data Docs may show small pictures and ids of theirs, and the manifests "
    "in runs/ list them."
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
            "From the next night on, no snapshot uses their images, nor copies of what snapshots have had of them, "
            "whatever is in the inbox; a night under way goes on with what it has taken in. Remove their images from "
            "the inbox."
        )
        return (first, ahead, *_near_copies(one), *_of_others(uses), _behind(uses), _models(uses))


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
        pixel_sha256=tuple(picture.pixel_sha256 for picture in uses.pictures),
        pictures=uses.pictures,
        tag_patient_ids=uses.tag_patient_ids,
    )
    standing = withdrawals.write(storage, data_uri, withdrawal)
    return Outcome(standing, is_new=standing == withdrawal, uses=uses)


def _near_copies(withdrawal: Withdrawal) -> tuple[str, ...]:
    others = {copy for picture in withdrawal.pictures for copy in picture.near_copies} - set(withdrawal.pixel_sha256)
    if not others:
        return ()
    told = f"{_count(len(others), 'other picture')} noted as near copies of theirs: who has one is taken for them."
    return (told,)


def _of_others(uses: Uses) -> tuple[str, ...]:
    if not uses.num_of_others:
        return ()
    told = (
        f"Not counted as theirs: {_count(uses.num_of_others, 'picture')} that earlier snapshots gave to them, and the "
        "last one or the holdout gives to somebody else. If that is wrong, withdraw the other name too."
    )
    return (told,)


def _behind(uses: Uses) -> str:
    if not uses.used_in:
        return f"No committed snapshot has used them. {_TRACES}"
    return (
        f"{_count(len(uses.used_in), 'snapshot')} used them, the last is number {max(uses.used_in)}; they stay as they "
        f"are, so that what was learnt can be proven. Their pixels stay in {_count(len(uses.shard_keys), 'object')} "
        f"below pixels/, with those of others, and what is known of these below near-copies/. {_TRACES} Where the law "
        "wants that erased too: start a new data_uri from the inbox without them, and delete this one; registered "
        "versions keep working."
    )


def _models(uses: Uses) -> str:
    if not uses.models:
        return "No model saw them, under this name or with these pictures under another."
    versions = f"registered: version {', '.join(uses.versions)}" if uses.versions else "none of them registered"
    return f"{_count(len(uses.models), 'model')} saw them, {versions}. See: bc where-used {uses.patient_id}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
