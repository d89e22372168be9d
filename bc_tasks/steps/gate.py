"""gate: decides whether the challenger may be registered. A rejection is a value, not an error."""

from datetime import datetime

from bc_tasks import cases, gates, ledger, runs, snapshots
from bc_tasks.records import Evaluation, MadeWith, Run, ValidationReport, Verdict
from bc_tasks.storage import Storage


def run(run_uri: str, *, storage: Storage, now: datetime, made_with: MadeWith) -> Verdict:
    """Apply the rules to the evaluation, with its look at the ledger, and write the verdict.

    A rejection ends the snapshot's claim to be trained on; what could not be compared is compared another night.

    Raises:
        RecordMissing: the night's best model has not been evaluated.
        DataError: the ledger was changed.
    """
    if runs.exists(storage, run_uri, Verdict.usual_name()):
        return runs.read(storage, run_uri, Verdict)
    start = runs.read(storage, run_uri, Run)
    config = start.config
    evaluation = runs.read(storage, run_uri, Evaluation)
    look = ledger.look(storage, config.data_uri, evaluation, config.gate, run_uri=start.run_uri, now=now)
    first_champion = ledger.first_champion(storage, config.data_uri, evaluation.champion)
    case = cases.build(evaluation, first_champion, subgroups=config.gate.subgroups, seed=config.training.seed)
    verdict = gates.decide(case, config.gate, look, made_with)
    if not verdict.passed and not verdict.dry_run and verdict.kind != "cannot-compare":
        snapshots.finish(storage, runs.read(storage, run_uri, ValidationReport).snapshot, run_uri)
    runs.write(storage, run_uri, verdict)
    return verdict
