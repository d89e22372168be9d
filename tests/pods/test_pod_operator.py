"""The real operator over HTTP: what a night makes of whatever becomes of a pod."""

import asyncio
import contextlib
import re
from typing import Any

import pytest
from fake_kubernetes import Node
from pod_steps import TRAINER, Make

from bc_tasks.errors import (
    AlreadyExists,
    BcError,
    ConfigError,
    DataError,
    InfrastructureError,
    Interrupted,
    OutOfMemory,
    RecordMissing,
)

WAIT = """
import time
while not (FOLDER / "go-on").exists():
    time.sleep(0.05)
"""
WAIT_ON_THE_FIRST_ATTEMPT = "while attempt == 1 and not (FOLDER / 'go-on').exists(): __import__('time').sleep(0.05)\n"


def test_a_step_that_leaves_its_record_has_succeeded_and_its_pod_is_removed(make: Make) -> None:
    step = make("print('recall 0.8'); leave_the_record()")
    assert step.run() == [None]
    assert "recall 0.8" in step.log()
    assert f"The same by hand: bc evaluate --run-uri file://{step.folder}" in step.log()
    step.cluster.wait_for(lambda: step.cluster.pods() == [])
    assert len(step.cluster.created_pods()) == 1


def test_it_sleeps_while_the_pod_runs_and_its_lines_come_meanwhile(make: Make) -> None:
    step = make(f"print('epoch 1', flush=True){WAIT}leave_the_record()")
    deferred = step.task.begin(step.task.context())
    assert deferred is not None, "it must not hold a worker"
    step.begin()  # another worker, that finds the pod
    step.cluster.wait_for(lambda: "epoch 1" in step.log())
    step.go_on()
    assert step.outcomes() == [None]
    assert len(step.cluster.created_pods()) == 1


def test_secrets_reach_the_step_from_the_cluster_and_not_through_airflow(make: Make) -> None:
    step = make(
        "import os; assert os.environ['AWS_SECRET_ACCESS_KEY'] == 'a secret of the cluster'; leave_the_record()"
    )
    assert step.run() == [None]
    assert "a secret of the cluster" not in step.log()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (DataError.exit_code, DataError),
        (RecordMissing.exit_code, RecordMissing),
        (BcError.exit_code, BcError),
        (OutOfMemory.exit_code, OutOfMemory),
        (AlreadyExists.exit_code, AlreadyExists),
        (ConfigError.exit_code, ConfigError),
        (1, BcError),
    ],
)
def test_what_a_retry_cannot_help_fails_at_once_and_leaves_its_pod_to_be_looked_at(
    code: int, kind: type[BcError], make: Make
) -> None:
    step = make(f"raise SystemExit({code})")
    (error,) = step.run()
    assert type(error) is kind
    assert f"evaluate failed with exit code {code}" in str(error)
    assert "A retry can't help here" in step.log()
    assert [pod["status"]["phase"] for pod in step.cluster.pods()] == ["Failed"]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("raise SystemExit(75)", InfrastructureError),
        ("raise SystemExit(143)", Interrupted),
        ("kill()", InfrastructureError),
    ],
)
def test_what_a_retry_can_help_is_tried_again_in_a_pod_on_another_node(
    end: str, kind: type[BcError], make: Make
) -> None:
    kill = "import os\ndef kill(): os.kill(os.getpid(), 9)"
    step = make(f"{kill}\nif attempt == 1: {end}\nleave_the_record()")
    first, second = step.run()
    assert type(first) is kind
    assert second is None
    nodes = [pod["spec"].get("nodeName") for pod in [*step.cluster.pods(), *step.cluster.deleted_pods()]]
    assert sorted(nodes) == ["cpu-1", "cpu-2"]


def test_out_of_memory_names_the_limit_and_what_to_change(make: Make) -> None:
    script = "block = bytearray(400_000_000); import time; time.sleep(60)"
    (error,) = make(script, execution__pods__evaluate__memory="200Mi").run()
    assert type(error) is OutOfMemory
    assert "OOMKilled at 200Mi: raise execution.pods.evaluate.memory" in str(error)


def test_a_pod_waits_for_a_gpu_until_one_is_there(make: Make) -> None:
    step = make("leave_the_record()", execution__pods__evaluate__gpus_per_pod=1)
    step.begin()
    step.cluster.wait_for(lambda: "Insufficient nvidia.com/gpu" in str(step.cluster.pods()))
    step.cluster.add_node(Node("gpu-1", gpus=1))
    assert step.outcomes() == [None]


def test_a_pod_that_finds_no_node_in_time_is_taken_away(make: Make) -> None:
    step = make("leave_the_record()", execution__pods__evaluate__gpus_per_pod=1)
    error = step.task.attempt()
    assert type(error) is InfrastructureError
    assert "no node was found in time" in str(error)
    assert "Insufficient nvidia.com/gpu" in str(error)
    assert step.cluster.pods() == [], "else it would run one day, when nobody waits for it"


def test_a_step_that_exceeds_its_time_is_ended_and_not_tried_again(make: Make) -> None:
    step = make("import time; time.sleep(600)", schedule__step_timeout_minutes=0.05)
    (error,) = step.run()
    assert type(error) is BcError
    assert "evaluate did not end within 0.05 minutes" in str(error)
    assert "schedule.step_timeout_minutes" in str(error)


def test_an_image_that_cannot_be_fetched_is_named_and_tried_again(make: Make) -> None:
    step = make("leave_the_record()", execution__pods__image="registry.hospital.example/trainer:2.0")
    error = step.task.attempt()
    assert type(error) is InfrastructureError
    assert "registry.hospital.example/trainer:2.0" in str(error)
    assert "could not be fetched" in str(error)
    assert step.cluster.pods() == [], "nobody waits for it any more"
    step.cluster.add_image("registry.hospital.example/trainer:2.0", TRAINER)
    assert step.task.attempt() is None


def test_a_pod_that_is_evicted_is_resumed_on_another_node(make: Make) -> None:
    step = make(f"{WAIT_ON_THE_FIRST_ATTEMPT}leave_the_record()")
    step.begin()
    step.cluster.evict(step.running_pod(), "The node was low on resource: memory.", grace_seconds=1)
    first, second = step.outcomes()
    assert type(first) is InfrastructureError
    assert "Evicted: The node was low on resource: memory" in str(first)
    assert second is None
    assert len(step.cluster.created_pods()) == 2


def test_a_pod_that_vanishes_with_its_node_is_replaced(make: Make) -> None:
    step = make(f"{WAIT_ON_THE_FIRST_ATTEMPT}leave_the_record()")
    step.begin()
    step.cluster.lose_node(step.cluster.pod(step.running_pod())["spec"]["nodeName"])
    first, second = step.outcomes()
    assert "vanished and left no record" in str(first)
    assert second is None


def test_a_pod_whose_node_has_gone_silent_is_not_waited_for(make: Make) -> None:
    """The API server keeps such a pod, as if it ran, until somebody removes the node."""
    step = make(f"{WAIT_ON_THE_FIRST_ATTEMPT}leave_the_record()")
    step.begin()
    step.cluster.silence(step.running_pod(), seconds=60)
    first, second = step.outcomes()
    assert type(first) is InfrastructureError
    assert "does not say that it has ended" in str(first)
    assert second is None
    assert len(step.cluster.created_pods()) == 2


def test_a_task_that_is_cleared_waits_for_the_end_of_its_pod(make: Make) -> None:
    """Clearing deletes the pod, which takes a while; the next attempt must neither use it nor run beside it."""
    slow_to_end = (
        "import signal, time\nsignal.signal(15, lambda *_: (time.sleep(2), (FOLDER / 'ended').touch(), exit(143)))"
    )
    step = make(f"{slow_to_end}\n{WAIT_ON_THE_FIRST_ATTEMPT}assert (FOLDER / 'ended').exists()\nleave_the_record()")
    deferred = step.task.begin(step.task.context())
    assert deferred is not None
    step.running_pod()
    asyncio.run(deferred.trigger.on_kill())  # as Airflow's triggerer does then
    assert step.task.attempt() is None
    assert len(step.cluster.created_pods()) == 2


def test_a_third_attempt_keeps_away_from_both_nodes_that_failed(make: Make) -> None:
    step = make("raise SystemExit(75)")
    step.run()
    assert step.task.store["failed_nodes"] == ["cpu-1", "cpu-2"]
    step.cluster.add_node(Node("cpu-3", gpus=0))
    step.task.attempt()
    assert "cpu-3" in [pod["spec"]["nodeName"] for pod in step.cluster.pods()]


def test_a_pod_that_vanishes_after_it_left_its_record_has_succeeded(make: Make) -> None:
    step = make(f"leave_the_record(){WAIT}")
    step.begin()
    pod = step.cluster.pod(step.running_pod())
    step.cluster.wait_for((step.folder / "evaluate.json").exists)
    step.cluster.lose_node(pod["spec"]["nodeName"])
    assert step.outcomes() == [None]
    assert "only after it had left its record" in step.log()


def test_a_pod_that_succeeds_without_its_record_has_failed(make: Make) -> None:
    step = make("print('all is well')")
    (error,) = step.run()
    assert type(error) is BcError
    assert f"the pod of evaluate succeeded, but there is no record at file://{step.folder}/evaluate.json" in str(error)


def test_a_step_whose_record_is_there_needs_no_pod(make: Make) -> None:
    step = make("raise SystemExit(70)")
    (step.folder / "evaluate.json").write_text("{}")
    assert step.run() == [None]
    assert step.cluster.created_pods() == []


def test_a_worker_that_dies_leaves_a_pod_that_the_next_one_finds(make: Make) -> None:
    """It dies when the pod is created but before it learns of it, so that it can't have written it down."""
    step = make(f"{WAIT}leave_the_record()")

    def die(pod: dict[str, Any]) -> None:  # noqa: ARG001  # the hook's signature
        step.cluster.on_pod_created(lambda pod: None)  # noqa: ARG005  # likewise
        raise ConnectionResetError

    step.cluster.on_pod_created(die)
    with contextlib.suppress(Exception):  # whatever a dead worker would have raised
        step.task.begin(step.task.context())
    step.running_pod()
    step.begin()
    step.go_on()
    assert step.outcomes() == [None]
    assert len(step.cluster.created_pods()) == 1


def test_a_task_that_somebody_stops_ends_its_pod(make: Make) -> None:
    """Airflow calls the operator's `on_kill` before it sleeps, and the trigger's while it does."""
    step = make("import time; time.sleep(600)")
    deferred = step.task.begin(step.task.context())
    assert deferred is not None
    step.running_pod()
    asyncio.run(deferred.trigger.on_kill())
    step.cluster.wait_for(lambda: step.cluster.pods() == [])


def test_what_the_cluster_refuses_is_said_in_its_words(make: Make) -> None:
    (error,) = make("", execution__pods__namespace="nowhere").run()
    assert type(error) is ConfigError
    assert 'namespaces "nowhere" not found' in str(error)


def test_a_cluster_that_forbids_it_is_no_riddle(make: Make) -> None:
    (error,) = make("", execution__pods__service_account="nobody").run()
    assert type(error) is ConfigError
    assert 'serviceaccount "nobody" not found' in str(error)


def test_a_secret_that_is_missing_is_named(make: Make) -> None:
    step = make("", execution__pods__env_from_secrets=["s3-of-yesterday"])
    (error,) = step.run()
    assert type(error) is ConfigError
    assert 'secret "s3-of-yesterday" not found' in str(error)
    assert step.cluster.pods() == []


def test_no_line_of_a_long_log_is_lost(make: Make) -> None:
    """The provider's own trigger (10.25.0) loses lines that are written in the second in which it reads."""
    step = make(
        "import time\nfor number in range(300): print(f'line {number} of 300', flush=True); time.sleep(0.02)\n"
        "leave_the_record()"
    )
    assert step.run() == [None]
    seen = [int(number) for number in re.findall(r"line (\d+) of 300", step.log())]
    assert sorted(set(seen)) == list(range(300))
    assert len(seen) < 450, "and few come twice"
