"""`bc` and SIGTERM, which a drained node, an evicted pod and a stopped task all send."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from bc_tasks.errors import Interrupted


@pytest.mark.parametrize("command", [["gate"], ["train", "--backbone", "efficientnet_lite0"]])
def test_a_step_that_waits_for_s3_ends_at_once_and_says_why(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        child = subprocess.Popen(
            [sys.executable, "-m", "bc_tasks.cli", *command, "--run-uri", "s3://images/runs/night"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "AWS_ENDPOINT_URL_S3": address,
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
                "AWS_REGION": "us-east-1",
            },
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        connection.recv(1)
        sent = time.monotonic()
        child.send_signal(signal.SIGTERM)
        printed, _ = child.communicate(timeout=60)
        connection.close()
    assert child.returncode == Interrupted.exit_code, printed
    assert (
        printed
        == "Interrupted: SIGTERM came: the machine goes down, or somebody stopped this step; it can be tried again\n"
    )
    assert time.monotonic() - sent < 10
