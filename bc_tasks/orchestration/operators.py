"""The house operator: runs a step of the night by the command line that also works by hand and in a pod."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context

from bc_tasks.orchestration import child
from bc_tasks.orchestration.exit_codes import to_error
from bc_tasks.orchestration.step import Step


class StepOperator(Step, BaseOperator):
    """Runs `bc <task id> --run-uri ...`, gives its lines to the task's log, and raises what its exit code means.

    The step leaves its result as a record in the run's folder; XCom gets nothing but the text of the run's note.
    """

    program: Sequence[str] = (sys.executable, "-m", "bc_tasks.cli")
    template_fields: Sequence[str] = ("run_uri", "backbone")

    def __init__(self, *, run_uri: str, backbone: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_uri = run_uri
        self.backbone = backbone
        self._child: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> None:
        """Run the step to its end.

        Raises:
            BcError: it failed.
        """
        code = self._run([*self.program, *self.step_arguments()])
        self.conclude(context["ti"], to_error(self.step_name, code) if code else None)

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
