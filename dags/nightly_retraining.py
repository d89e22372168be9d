"""# The night: from new mammograms to a challenger

Every night: what is new in the inbox is taken in and validated, backbones are fine-tuned, the best of them and the
champion are measured on the same holdout, and a version is registered only if recall **and** F1 improve.
A person promotes it.

A run is a folder, `<data_uri>/runs/<run>`. Each step reads the records of the steps before it and leaves its own, last:
so **any failed task can be cleared** and the night goes on from there. Nothing is doubled, and what is done stays done.
The first line of a step's log is the command that does the same by hand.

## Green, and yet nothing was registered?

That is no fault. The run's note says why:

- *Nothing new*: all after `anything_new` is skipped. To train all the same, trigger a run by hand.
- *Rejected*: the challenger is not better by enough; `register` is skipped. `gate`'s log has every rule.
- *A dry run*: somebody asked for one in the trigger form.

## Red: what to do at 06:00

Nothing that patients depend on is waiting: the champion stays in service whatever happens here. Open the red task's
log; its last lines say what was seen, what was wanted and what to do next.

| exit code | what it means | retried |
|---|---|---|
| 65 | the data can't be used as it is | no |
| 66 | a step before left no record, or a stored object has vanished | no |
| 70 | a mistake in the program, or training diverged | no |
| 73 | two nights ran on the same data | no |
| 75 | S3, MLflow or the network did not answer in time | yes |
| 78 | the configuration or the credentials are wrong | no |
| ended by a signal | stopped by somebody, machine going down, or out of memory | yes |

A time-out is not retried. **After 75, or a signal**: see that S3 and MLflow answer, and that the machine has memory
and disk; then clear the task.

### start

The configuration was refused (78), or S3 could not be written. The log names the field and what it may be. Mend the
file that `BC_CONFIG` names, or trigger again with other values in the form.

### ingest

65: the holdout isn't the one that was fixed. Never "repair" it; find out who wrote below `<data_uri>/holdout/`, and restore
it. 78: there is no holdout yet (`bc holdout create`), or `ingest.pixels` was changed in a data set that exists. An image
that can't be used never stops the night: it is set aside with a reason, and the log counts the reasons.

### anything_new

It reads one record from S3: see *After 75* above.

### validate

65: too much of the night's data is bad, and nothing was trained. Press **Data Docs** on the task: each expectation, what
was seen, what was wanted and why. Tell the site whose batch it is. When the batch is mended or taken out of the inbox,
clear the run from `start`'s next task, `ingest`, or wait for the next night: it takes the batch up again by itself.

### train

One task for each backbone. 70 with *diverged*: lower `training.learning_rate`, and trigger a new run. Killed, or a CUDA
error about memory: lower `training.batch_size`, and trigger a new run. A time-out: clear the task, it goes on from its last
epoch. **Clear a failed training, or trigger a run with *Train if nothing new*: the data is committed by then, so the next
night has no news of it and would not train.**

### evaluate

66: one of the backbones has no model; clear its training. 65: the holdout isn't the one that was fixed; see *ingest*. A
champion that can't be loaded is no failure here: the gate then says *cannot compare* and registers nothing.

### gate

It computes on the records alone. 66: clear `evaluate`. Anything else is a mistake in the program: report it with the log.

### passed

It reads one record from S3: see *After 75* above.

### register

MLflow refused, or did not answer. Clear the task once MLflow works: registering twice makes one version.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, chain, dag

from bc_tasks import environment
from bc_tasks.config_file import load_config
from bc_tasks.orchestration.failure_notifier import FailureNotifier
from bc_tasks.orchestration.form import trigger_form
from bc_tasks.orchestration.operators import RETRY_POLICY, StepOperator
from bc_tasks.orchestration.tasks import anything_new, passed, start

CONFIG = load_config(environment.config_path())
SCHEDULE = CONFIG.schedule


@dag(
    # `run_immediately` is 0, so that unpausing the DAG by day starts no night; False means "within 10 %" in 3.3.2.
    schedule=CronTriggerTimetable(SCHEDULE.cron, timezone="UTC", run_immediately=timedelta()),
    catchup=False,
    max_active_runs=1,
    params=trigger_form(CONFIG),
    default_args={
        "owner": SCHEDULE.owner,
        "retries": SCHEDULE.retries,
        "retry_delay": timedelta(seconds=SCHEDULE.retry_delay_seconds),
        "retry_policy": RETRY_POLICY,
        "execution_timeout": timedelta(minutes=SCHEDULE.step_timeout_minutes),
    },
    on_failure_callback=[FailureNotifier(SCHEDULE.failure_conn_id, SCHEDULE.failure_recipients)]
    if SCHEDULE.failure_conn_id
    else [],
    tags=["breast-tumour", "training"],
    description="New mammograms in, a challenger out, if it is better than the champion",
    doc_md=__doc__,
)
def nightly_retraining() -> None:
    """Wire the steps; each gets nothing but the run's URI."""
    run = start()
    run_uri = run["run_uri"]
    ingest = StepOperator(task_id="ingest", run_uri=run_uri)
    validate = StepOperator(task_id="validate", run_uri=run_uri)
    train = StepOperator.partial(
        task_id="train",
        run_uri=run_uri,
        execution_timeout=timedelta(minutes=SCHEDULE.training_timeout_minutes),
        max_active_tis_per_dagrun=1,  # they share this machine's GPU and memory
        map_index_template="{{ task.backbone }}",
    ).expand(backbone=run)
    evaluate = StepOperator(task_id="evaluate", run_uri=run_uri)
    gate = StepOperator(task_id="gate", run_uri=run_uri)
    register = StepOperator(task_id="register", run_uri=run_uri)
    chain(run, ingest, anything_new(run_uri), validate, train, evaluate, gate, passed(run_uri), register)


nightly_retraining()
