"""Runs a step in a pod as Airflow does, without an Airflow: one process plays worker, triggerer and scheduler.

The operator, its trigger and the retry policy are the real ones, and every time Airflow would wake a task in another
process, a new operator is made here too. `tests/end_to_end/test_night_in_pods.py` does the same with a real Airflow.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.sdk import RetryAction
from airflow.sdk.exceptions import TaskDeferred

from bc_tasks.errors import BcError
from bc_tasks.orchestration.pod_operator import PodStepOperator
from bc_tasks.orchestration.step import RETRY_POLICY

MAX_TRIES = 2


class TaskStateStore(dict[str, Any]):
    """What Airflow keeps of a task from one attempt to the next."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self[key] = value


@dataclass
class Task:
    """A task of a run, and how its attempts went: None is success."""

    make_operator: Callable[[], PodStepOperator]
    run_id: str
    store: TaskStateStore = field(default_factory=TaskStateStore)
    outcomes: list[BcError | None] = field(default_factory=list)

    def run(self) -> list[BcError | None]:
        """Try until it succeeds, or a retry can't help, or there have been two attempts; return how each went."""
        while True:
            error = self.attempt()
            self.outcomes.append(error)
            if error is None or len(self.outcomes) == MAX_TRIES:
                return self.outcomes
            decision = RETRY_POLICY.evaluate(error, try_number=len(self.outcomes), max_tries=MAX_TRIES)
            if decision.action is not RetryAction.RETRY:
                return self.outcomes

    def attempt(self) -> BcError | None:
        """Try once."""
        context = self.context()
        try:
            deferred = self.begin(context)
            while deferred:
                deferred = self.resume(context, deferred)
        except BcError as error:
            return error
        return None

    def begin(self, context: Any) -> TaskDeferred | None:
        """Do what a worker does first; return what it waits for."""
        try:
            self.make_operator().execute(context)
        except TaskDeferred as deferred:
            return deferred
        return None

    def resume(self, context: Any, deferred: TaskDeferred) -> TaskDeferred | None:
        """Wait as a triggerer does, then go on as another worker; return what that waits for."""
        event = asyncio.run(_first_event(deferred.trigger))
        try:
            getattr(self.make_operator(), deferred.method_name)(context, event=event)
        except TaskDeferred as again:
            return again
        return None

    def context(self) -> Any:
        """Return what Airflow tells an operator, as far as this one asks."""
        ti = SimpleNamespace(
            dag_id="nightly_retraining",
            task_id="evaluate",
            run_id=self.run_id,
            map_index=-1,
            try_number=len(self.outcomes) + 1,
            start_date=datetime.now(UTC),
            xcom_push=lambda key, value: None,  # noqa: ARG005  # nobody looks at them here
        )
        return {"ti": ti, "run_id": self.run_id, "dag": SimpleNamespace(), "task_state_store": self.store}


async def _first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("a trigger that ends without an event leaves its task waiting for ever")
