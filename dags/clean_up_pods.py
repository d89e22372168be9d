"""# Removes old pods

A training that failed leaves its pod, so that it can be looked at: `kubectl -n <namespace> describe pod <name>`. Once a
day this removes the pods that ended more than `execution.pods.keep_failed_hours` ago, and those that have waited for a
node so long that no night can still want them. It touches no other pods.

## Red: what to do

### remove_old_pods

The cluster's API refused or did not answer; the log says which. No night depends on this: old pods take up no CPU and
no GPU, only room in the namespace's list. Mend the connection `execution.pods.kubernetes_conn_id`, or the rights in
`include/kubernetes/base`, and clear the task.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag

from bc_tasks import environment
from bc_tasks.config_file import load_config
from bc_tasks.orchestration.tasks import remove_old_pods

CONFIG = load_config(environment.config_path())


@dag(
    schedule=CronTriggerTimetable("0 12 * * *", timezone="UTC", run_immediately=timedelta()),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": CONFIG.schedule.owner,
        "retries": CONFIG.schedule.retries,
        "execution_timeout": timedelta(minutes=10),
    },
    tags=["breast-tumour", "housekeeping"],
    description="Pods of failed trainings, gone after a few days",
    doc_md=__doc__,
)
def clean_up_pods() -> None:
    """Remove old pods once a day, by day: the nights are for the nights."""
    remove_old_pods()


if CONFIG.execution.launcher == "kubernetes":
    clean_up_pods()
