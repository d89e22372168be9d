"""Where a step runs: the one place that knows, so that the DAG reads the same with and without Kubernetes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator

from bc_tasks.config import RunConfig
from bc_tasks.orchestration.operators import StepOperator


class Launcher:
    """Makes the operator of a step: a child process on the worker, or a pod, as `execution` says."""

    def __init__(self, config: RunConfig, *, config_folder: Path) -> None:
        self.config = config
        self.config_folder = config_folder

    def step(self, step: str, run_uri: Any) -> Any:
        """Return the task that does a step of the run."""
        operator, arguments = self._operator(step)
        return operator(task_id=step, run_uri=run_uri, **arguments)

    def step_per_backbone(self, step: str, run_uri: Any, backbones: Any) -> Any:
        """Return the tasks that do a step for each backbone of the run."""
        operator, arguments = self._operator(step)
        return operator.partial(
            task_id=step,
            run_uri=run_uri,
            max_active_tis_per_dagrun=self._num_parallel(step),
            map_index_template="{{ task.backbone }}",
            **arguments,
        ).expand(backbone=backbones)

    def timeout(self, step: str) -> timedelta:
        """Return how long a step may run, not counting the wait for a node."""
        schedule = self.config.schedule
        return timedelta(
            minutes=schedule.training_timeout_minutes if step == "train" else schedule.step_timeout_minutes
        )

    def _operator(self, step: str) -> tuple[type[BaseOperator], dict[str, Any]]:
        execution = self.config.execution
        if not execution.in_pod(step):
            return StepOperator, {"execution_timeout": self.timeout(step)}
        # Here, because it takes as long to import as the rest of the DAG file.
        from bc_tasks.orchestration.pod_operator import PodStepOperator
        from bc_tasks.orchestration.pods import operator_arguments

        return PodStepOperator, operator_arguments(
            execution.pods, step, self.timeout(step), config_folder=self.config_folder
        )

    def _num_parallel(self, step: str) -> int:
        """Without pods, trainings share one machine's GPU and memory."""
        execution = self.config.execution
        return execution.pods.parallel_trainings if execution.in_pod(step) else 1
