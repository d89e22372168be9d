"""# The night: from new mammograms to a challenger

Every night, what is new in the inbox is taken in and validated, backbones are fine-tuned, the best of them and the
champion are measured on the same holdout, and a version is registered only if recall **and** F1 improve. A person
promotes it.

A run is a folder, `<data_uri>/runs/<run>`. Each step reads the records of the steps before it and leaves its own, last;
a step whose record is there is done. The first line of a step's log is the command that does the same by hand.

## Green, and yet nothing was registered?

That is no fault. The run's note says why:

- *Nothing new*: what follows `anything_new` was skipped. To train all the same, trigger a run by hand.
- *Rejected*: the challenger is not better by enough, and `register` was skipped. The log of `gate` has every rule.
- *A dry run*: somebody asked for it in the trigger form.

## Red: what to do at 06:00

Nothing that patients depend on waits for this: the champion stays in service whatever happens here. Open the log of the
red task. Its last lines say what was seen, what was wanted and what to do, and end with an exit code:

| code | what it means | retried | when the cause is mended |
|---|---|---|---|
| 65 | the data can't be used as it is | no | trigger a new run |
| 66 | a step before left no record, or a stored object vanished | no | clear the step named in the log |
| 70 | a mistake in the program, or training diverged | no | clear the task; where it diverged, see *train* |
| 71 | the memory of the GPU, the pod or the machine was not enough | no | trigger a new run |
| 73 | two nights ran on the same data | no | trigger a new run |
| 75 | S3, MLflow or the network did not answer in time | yes | clear the task |
| 78 | the configuration or the credentials are wrong | no | trigger a new run; for credentials, clear the task |
| 143 | interrupted: the machine goes down, or somebody stopped it | yes | clear the task |
| a signal | killed by somebody, by the machine going down, or out of memory | yes | clear the task |

**Clear or trigger?** A run keeps its configuration and what it took in. So *clear* the red task where the cause lay
outside the run, and it goes on from there, nothing doubled. *Trigger* a new run where the data or the configuration was
mended. A run that failed after `validate` has committed its data; if nobody clears it, the next night makes up for it,
even if nothing else is new.

A time-out is not retried: the step hung, or needs more than `schedule` in the configuration gives it.

### start

78: the log names the field of the configuration, or of the form, and what it may be. The file is the one that
`BC_CONFIG` names.

### ingest

65: the holdout isn't the one that was fixed. Don't "repair" it: find out who wrote below `<data_uri>/holdout/`, and
restore it. 78: there is no holdout yet (`bc holdout create`), or `ingest.pixels` was changed in a data set that exists.
An image that can't be used stops no night: it is set aside with a reason, and the log counts the reasons.

### anything_new

It reads one record from S3. If that failed, see that S3 answers, and clear the task.

### validate

65: too much of the night's data is bad; nothing was committed or trained on. **Data Docs**, a button under *Details* of
the task, shows each expectation: what was seen, what was wanted, and why. Tell the site whose batch it is. When that is
mended, or taken out of the inbox, the next night takes the inbox anew; to have it sooner, trigger a run.

### train

One task for each backbone. 70 and *diverged*: lower `training.learning_rate`, trigger a run with *Train if nothing
new*. 71: the same with `training.batch_size`, or more `execution.pods.train.memory`. After a time-out, or a machine
that went down, clear the task: it goes on from its checkpoint, on another node if there is one.

**In a pod**, the log's last lines say what became of it: no GPU was free in time, the image could not be fetched,
evicted, `OOMKilled`. A failed pod stays for `execution.pods.keep_failed_hours`, to `kubectl describe` it; its name is
under *XCom*. A pod that succeeded without leaving its record counts as failed: it saw another storage, or its image is
of another version.

### evaluate

66: one of the backbones has no model; clear its training. 65: the holdout isn't the one that was fixed; see *ingest*.
A champion that can't be loaded is no failure here: the gate says that it can't compare, and registers nothing.

### gate

It computes on the records alone. 66: clear `evaluate`. Anything else is a mistake in the program: report it.

### passed

It reads one record from S3. If that failed, see that S3 answers, and clear the task.

### register

MLflow refused, or did not answer. Clear the task when it works again: registering twice makes one version.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, chain, dag

from bc_tasks import environment
from bc_tasks.config_file import load_config
from bc_tasks.orchestration.failure_notifier import failure_notifiers
from bc_tasks.orchestration.form import trigger_form
from bc_tasks.orchestration.launcher import Launcher
from bc_tasks.orchestration.step import RETRY_POLICY
from bc_tasks.orchestration.tasks import anything_new, passed, start

CONFIG = load_config(environment.config_path())
SCHEDULE = CONFIG.schedule
LAUNCHER = Launcher(CONFIG, config_folder=environment.config_path().parent)


@dag(
    # `run_immediately` is 0, so that unpausing the DAG by day starts no night; False means "within 10 %" in 3.3.2.
    schedule=CronTriggerTimetable(SCHEDULE.cron, timezone="UTC", run_immediately=timedelta()),
    catchup=False,
    allowed_run_types=["scheduled", "manual"],  # no backfill: a night takes what is there now, not what was then
    max_active_runs=1,
    params=trigger_form(CONFIG),
    default_args={
        "owner": SCHEDULE.owner,
        "retries": SCHEDULE.retries,
        "retry_delay": timedelta(seconds=SCHEDULE.retry_delay_seconds),
        "retry_policy": RETRY_POLICY,
        "execution_timeout": timedelta(minutes=SCHEDULE.step_timeout_minutes),
    },
    on_failure_callback=failure_notifiers(SCHEDULE),
    tags=["breast-tumour", "training"],
    description="New mammograms in, a challenger out, if it is better than the champion",
    doc_md=__doc__,
)
def nightly_retraining() -> None:
    """Wire the steps; each gets nothing but the run's URI."""
    run = start()  # which returns the backbones: Airflow maps a task over nothing but a return value
    run_uri = run["run_uri"]
    ingest = LAUNCHER.step("ingest", run_uri)
    validate = LAUNCHER.step("validate", run_uri)
    train = LAUNCHER.step_per_backbone("train", run_uri, backbones=run)
    evaluate = LAUNCHER.step("evaluate", run_uri)
    gate = LAUNCHER.step("gate", run_uri)
    register = LAUNCHER.step("register", run_uri)
    chain(run, ingest, anything_new(run_uri), validate, train, evaluate, gate, passed(run_uri), register)


nightly_retraining()
