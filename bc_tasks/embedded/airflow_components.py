"""Runs Airflow's scheduler, DAG processor, triggerer and API server; started by `airflow.py` as a program of its own.

Airflow is imported once and the components are forked from there. `airflow standalone` imports it five times over:
twice the processor time until it is up, and twice the memory. Here no component listens on any but the API
server's port, either: `standalone` can't be told not to serve logs to the whole network.
"""

import os
import signal
import sys

COMPONENTS = (
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
    ("api-server",),
)


def main() -> None:
    """Make or upgrade the database, start the components, and end them all when the first one ends."""
    import airflow.executors.local_executor
    import airflow.jobs.dag_processor_job_runner
    import airflow.jobs.scheduler_job_runner
    import airflow.jobs.triggerer_job_runner  # noqa: F401  # here, so that it is imported once
    from airflow.utils import db

    import bc_tasks.storage  # noqa: F401  # the same, for the tasks, which the scheduler forks

    db.initdb()
    names = {_fork(command): command[0] for command in COMPONENTS}
    pid, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    sys.stdout.write(f"Airflow's {names[pid]} has ended with exit code {code}; ending the others\n")
    sys.stdout.flush()
    os.killpg(0, signal.SIGTERM)


def _fork(command: tuple[str, ...]) -> int:
    if pid := os.fork():
        return pid
    from airflow.__main__ import main as airflow

    sys.argv = ["airflow", *command]
    airflow()
    os._exit(0)


if __name__ == "__main__":
    main()
