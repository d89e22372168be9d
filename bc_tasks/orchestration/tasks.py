"""The tasks that need no process of their own: the start of a night, and the two questions that may end it."""

import logging
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import task

from bc_tasks import environment

log = logging.getLogger(__name__)

NOTHING_NEW = "No image is new, revised or withdrawn"


@task
def start(params: dict[str, Any], dag_run: Any, ti: Any) -> list[str]:
    """Freeze the configuration, with what the trigger form says, into the run's first record.

    Returns the backbones to train; the run's URI is left under the XCom key `run_uri`.
    """
    from bc_tasks import runs
    from bc_tasks.config_file import apply_form, load_config
    from bc_tasks.steps import start as step
    from bc_tasks.storage import open_storage

    config = apply_form(load_config(environment.config_path()), params)
    run = step.run(
        config,
        storage=open_storage(config.storage),
        run_name=runs.to_run_name(dag_run.run_id),
        started_at=dag_run.start_date,
        trigger=dag_run.triggering_user_name or dag_run.run_type.value,
        code_version=environment.code_version(),
    )
    log.info("The run's folder: %s", run.run_uri)
    ti.xcom_push("run_uri", run.run_uri)
    return list(run.config.training.backbones)


@task.short_circuit
def anything_new(run_uri: str) -> bool:
    """Say whether there is something to train on; if not, the rest of the night is skipped and the run is green."""
    from bc_tasks import runs
    from bc_tasks.records import Run, Snapshot
    from bc_tasks.storage import open_storage

    storage = open_storage()
    snapshot = runs.read(storage, run_uri, Snapshot)
    if snapshot.has_news:
        if not snapshot.has_changes or snapshot.is_routine:
            log.info(
                "Nothing is to be learnt, but the night of snapshot %s broke off; this one makes up for it.",
                snapshot.base_number,
            )
        return True
    waiting = f"; still being uploaded: {', '.join(snapshot.waiting_batches)}" if snapshot.waiting_batches else ""
    seen = "Only copies, and images of the holdout's patients, are new" if snapshot.has_changes else NOTHING_NEW
    log.info("%s since snapshot %s%s.", seen, snapshot.base_number, waiting)
    if runs.read(storage, run_uri, Run).config.training.train_if_nothing_new:
        log.info("Training all the same: train_if_nothing_new is set.")
        return True
    log.info("The rest is skipped. To train all the same, trigger a run with 'Train if nothing new'.")
    return False


@task.short_circuit
def passed(run_uri: str) -> bool:
    """Say whether the challenger is to be registered; if not, the night ends here, and the run is green."""
    from bc_tasks import runs
    from bc_tasks.records import Verdict
    from bc_tasks.storage import open_storage

    verdict = runs.read(open_storage(), run_uri, Verdict)
    log.info("%s", verdict.summary)
    if verdict.passed and verdict.dry_run:
        log.info("This is a dry run: nothing is registered.")
    return verdict.passed and not verdict.dry_run


@task
def remove_old_pods() -> int:
    """Remove the pods of nights gone by; returns how many."""
    from bc_tasks.config_file import load_config
    from bc_tasks.orchestration import pod_cleanup

    pods = load_config(environment.config_path()).execution.pods
    return pod_cleanup.remove_old_pods(pods, now=datetime.now(UTC))
