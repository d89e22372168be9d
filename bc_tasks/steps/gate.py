"""gate: decides whether the challenger may be registered. A rejection is a value, not an error."""

from bc_tasks import gates, runs, snapshots
from bc_tasks.records import Evaluation, Run, ValidationReport, Verdict
from bc_tasks.storage import Storage


def run(run_uri: str, *, storage: Storage) -> Verdict:
    """Apply the gate's rules to the evaluation and write the verdict; a rejection finishes the snapshot."""
    config = runs.read(storage, run_uri, Run).config
    verdict = gates.decide(runs.read(storage, run_uri, Evaluation), config.gate)
    if not verdict.passed and not verdict.dry_run:
        snapshots.finish(storage, runs.read(storage, run_uri, ValidationReport).snapshot, run_uri)
    runs.write(storage, run_uri, verdict)
    return verdict
