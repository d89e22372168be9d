"""What the operators of a step have in common, whether it runs here or in a pod."""

import shlex
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink, ExceptionRetryPolicy, RetryAction, RetryRule

from bc_tasks.errors import BcError, InfrastructureError
from bc_tasks.orchestration.links import DataDocsLink, MlflowLink

if TYPE_CHECKING:
    from logging import Logger

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


class Step:
    """A mixin for operators whose task id is a step: its command line, its buttons, and what its failure means."""

    task_id: str
    run_uri: str
    backbone: str | None
    log: "Logger"
    ui_color = "#e8f0f7"

    @property
    def operator_extra_links(self) -> tuple[BaseOperatorLink, ...]:
        """The buttons of this step; Airflow asks a mapped operator too, which has little more than its task id."""
        return LINKS.get(self.task_id, ())

    @property
    def step_name(self) -> str:
        """What the step is called in a message to people."""
        return f"{self.task_id} ({self.backbone})" if self.backbone else self.task_id

    def step_arguments(self) -> list[str]:
        """Return what follows `bc` on the command line, and say in the log how to do the same by hand."""
        backbone = ["--backbone", self.backbone] if self.backbone else []
        arguments = [self.task_id, "--run-uri", self.run_uri, *backbone]
        self.log.info("The same by hand: %s", shlex.join(["bc", *arguments]))
        return arguments

    def conclude(self, ti: Any, error: BcError | None) -> None:
        """Leave the run's note; after a failure, say whether a retry can help, and raise it.

        Raises:
            BcError: the step failed; `RETRY_POLICY` looks at the kind.
        """
        from bc_tasks.orchestration import run_note

        run_note.leave(ti, self.run_uri, error)
        if error is None:
            return
        self.log.error("%s", error)
        if error.retryable:
            self.log.warning("A retry can help here: if tries are left, Airflow will make one.")
        else:
            self.log.error("A retry can't help here; what to do is in the DAG's documentation, under %r.", self.task_id)
        raise error
