"""start: freezes everything that decides what the night does."""

from datetime import datetime

from bc_tasks import runs
from bc_tasks.config import RunConfig
from bc_tasks.records import Run
from bc_tasks.storage import Storage, join


def run(
    config: RunConfig, *, storage: Storage, run_name: str, started_at: datetime, trigger: str, code_version: str
) -> Run:
    """Write the run's first record, or return the one that is there when the step is tried again."""
    run_uri = join(config.data_uri, "runs", run_name)
    if runs.exists(storage, run_uri, "start.json"):
        return runs.read(storage, run_uri, Run)
    record = Run(run_uri=run_uri, started_at=started_at, trigger=trigger, code_version=code_version, config=config)
    runs.write(storage, run_uri, record)
    return record
