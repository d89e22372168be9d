"""gate: decides whether the challenger may be registered. A rejection is a value, not an error."""

from bc_tasks import gates, runs
from bc_tasks.records import Evaluation, Run, Verdict
from bc_tasks.storage import Storage


def run(run_uri: str, *, storage: Storage) -> Verdict:
    """Apply the gate's rules to the evaluation and write the verdict."""
    config = runs.read(storage, run_uri, Run).config
    verdict = gates.decide(runs.read(storage, run_uri, Evaluation), config.gate)
    runs.write(storage, run_uri, verdict)
    return verdict
