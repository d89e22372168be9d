"""The embedded default: S3, MLflow and Airflow as real servers on this machine, started and stopped together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bc_tasks.embedded import airflow, mlflow_server, processes, seaweedfs
from bc_tasks.embedded.airflow import EmbeddedAirflow
from bc_tasks.embedded.mlflow_server import EmbeddedMlflow
from bc_tasks.embedded.seaweedfs import EmbeddedS3


@dataclass(frozen=True)
class Stack:
    """The running servers."""

    s3: EmbeddedS3
    mlflow: EmbeddedMlflow
    airflow: EmbeddedAirflow


@contextmanager
def running(state: Path, *, config_path: Path, say: Callable[[str], None]) -> Iterator[Stack]:
    """Start all three on the data in `state`, and stop them, with all that they started, in the end.

    Raises:
        ConfigError: they run already.
        InfrastructureError: one didn't start; its last log lines are in the message.
    """
    processes.refuse_second("the embedded stack", state)
    try:
        say("starting SeaweedFS (S3)")
        s3 = seaweedfs.start(state / "seaweedfs")
        say("starting MLflow")
        mlflow = mlflow_server.start(state / "mlflow", s3)
        say("starting Airflow")
        environment = s3.environment() | mlflow.environment() | {"BC_CACHE": str((state / "cache").resolve())}
        yield Stack(s3, mlflow, airflow.start(state / "airflow", config_path=config_path, environment=environment))
    finally:
        processes.stop(state)
