"""The house operator: runs a step of the night by the command line that also works by hand and in a pod."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink, Context, ExceptionRetryPolicy, RetryAction, RetryRule

from bc_tasks.errors import BcError, InfrastructureError
from bc_tasks.orchestration import child, run_note
from bc_tasks.orchestration.exit_codes import to_error
from bc_tasks.orchestration.links import DataDocsLink, MlflowLink

RETRY_POLICY = ExceptionRetryPolicy(
    rules=[RetryRule(exception=InfrastructureError, action=RetryAction.RETRY)], default=RetryAction.FAIL
)
"""A retry can only help where S3, MLflow, the network or the machine failed; anything else needs a person.

A task whose worker vanished raises nothing, so this policy isn't asked, and Airflow retries it.
"""

LINKS: dict[str, tuple[BaseOperatorLink, ...]] = {
    "validate": (DataDocsLink(),),
    "train": (MlflowLink(),),
    "evaluate": (MlflowLink(),),
    "register": (MlflowLink(),),
}


class StepOperator(BaseOperator):
    """Runs `bc <task id> --run-uri ...`, gives its lines to the task's log, and raises what its exit code means.

    The step leaves its result as a record in the run's folder; XCom gets nothing but the text of the run's note.
    """

    program: Sequence[str] = (sys.executable, "-m", "bc_tasks.cli")
    template_fields: Sequence[str] = ("run_uri", "backbone")
    ui_color = "#e8f0f7"

    def __init__(self, *, run_uri: str, backbone: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_uri = run_uri
        self.backbone = backbone
        self._child: subprocess.Popen[str] | None = None

    @property
    def operator_extra_links(self) -> tuple[BaseOperatorLink, ...]:
        """The buttons of this step; Airflow asks a mapped operator too, which has little more than its task id."""
        return LINKS.get(self.task_id, ())

    def execute(self, context: Context) -> None:
        """Run the step to its end.

        Raises:
            BcError: it failed; `RETRY_POLICY` looks at the kind.
        """
        backbone = ["--backbone", self.backbone] if self.backbone else []
        arguments = [self.task_id, "--run-uri", self.run_uri, *backbone]
        self.log.info("The same by hand: %s", shlex.join(["bc", *arguments]))
        code = self._run([*self.program, *arguments])
        name = f"{self.task_id} ({self.backbone})" if self.backbone else self.task_id
        error = to_error(name, code) if code else None
        run_note.leave(context["ti"], self.run_uri, error)
        if error:
            self._explain(error)
            raise error

    def on_kill(self) -> None:
        """End the step with everything that it started: the task was failed, cleared, or ran out of time."""
        if self._child is not None:
            child.end(self._child)

    def _run(self, command: list[str]) -> int:
        self._child = child.start(command)
        try:
            for line in child.lines(self._child):
                self.log.info("%s", line)
            return self._child.wait()
        finally:
            child.end(self._child)

    def _explain(self, error: BcError) -> None:
        if error.retryable:
            self.log.warning("A retry can help here: if tries are left, Airflow will make one.")
        else:
            self.log.error("A retry can't help here; what to do is in the DAG's documentation, under %r.", self.task_id)
