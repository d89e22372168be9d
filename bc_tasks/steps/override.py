"""override: a person's word that a challenger may be registered though it could not be compared."""

import hashlib
from datetime import datetime

from bc_tasks import gates, runs
from bc_tasks.errors import AlreadyExists, BcError
from bc_tasks.records import Override, Verdict
from bc_tasks.storage import Storage, join


def run(run_uri: str, *, storage: Storage, by: str, reason: str, now: datetime) -> Override:
    """Record who overrides the verdict of this run, when and why; the verdict itself stays as it is.

    Raises:
        RecordMissing: there is no verdict.
        BcError: something else is against the challenger, it is a dry run, or somebody has overridden it before.
    """
    verdict = runs.read(storage, run_uri, Verdict)
    if verdict.dry_run or not gates.may_be_overridden(verdict):
        raise BcError(
            f"the verdict of {run_uri} can't be overridden: only one that couldn't compare, and has nothing else "
            f"against the challenger, can. It says: {verdict.summary}"
        )
    digest = hashlib.sha256(storage.read(join(run_uri, Verdict.usual_name()))).hexdigest()
    record = Override(by=by, at=now, reason=reason, verdict_sha256=digest)
    try:
        runs.write(storage, run_uri, record, if_absent=True)
    except AlreadyExists as error:
        there = runs.read(storage, run_uri, Override)
        raise BcError(
            f"{run_uri} was overridden by {there.by} at {there.at:%Y-%m-%d %H:%M}: {there.reason}; if it is not "
            f"registered yet: bc register --run-uri {run_uri}"
        ) from error
    return record
