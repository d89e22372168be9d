"""compose.yaml: read by Docker Compose itself, hardened, ordered, and without a password that everybody knows."""

import json
import os
import re
import shutil
import stat
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from bc_tasks.config_file import load_config
from bc_tasks.environment import CHECKOUT

DOCKER = CHECKOUT / "docker"
WITHOUT_HEALTH_CHECK = {
    "airflow-set-up": "a job",
    "mlflow-set-up": "a job",
    "mlflow-user": "a job",
    "log-cleaner": "a loop for which nobody waits",
}


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make-env.sh writes."""
    folder = tmp_path_factory.mktemp("compose")
    script = shutil.copy(DOCKER / "make-env.sh", folder)
    subprocess.run([script], check=True, env=os.environ | {"TAG": "0.1.0"})
    return folder / ".env"


@pytest.fixture(scope="module")
def stack(env_file: Path) -> dict[str, Any]:
    """The stack as Docker Compose understands it, with all variables filled in."""
    done = _compose(env_file, "--file", str(DOCKER / "compose.gpu.yaml"))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_secrets_are_new_each_time_private_and_never_overwritten(env_file: Path, tmp_path: Path) -> None:
    script = shutil.copy(DOCKER / "make-env.sh", tmp_path)
    subprocess.run([script], check=True)
    ours, theirs = _variables(env_file), _variables(tmp_path / ".env")
    assert [name for name in ours if ours[name] and ours[name] == theirs[name]] == []
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert subprocess.run([script], check=False, capture_output=True).returncode == 1
    assert _variables(tmp_path / ".env") == theirs


def test_every_secret_must_be_given(env_file: Path, tmp_path: Path) -> None:
    variables = _variables(env_file)
    for missing in variables.keys() - {"REGISTRY"}:
        rest = tmp_path / "env"
        rest.write_text("".join(f"{name}={value}\n" for name, value in variables.items() if name != missing))
        done = _compose(rest)
        assert done.returncode != 0
        assert f"required variable {missing} is missing" in done.stderr


def test_no_password_stands_in_the_file() -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    for name, value in re.findall(r"(?m)^\s+(\w*(?:PASSWORD|SECRET|KEY|CONN)\w*): (.*)$", text):
        assert re.search(r"\$\{\w+:\?.+\}", value), name


def test_every_service_has_a_health_check_or_a_reason(stack: dict[str, Any]) -> None:
    without = {name for name, service in stack["services"].items() if service["healthcheck"].get("disable")}
    assert without == WITHOUT_HEALTH_CHECK.keys()
    assert all(service["healthcheck"].get("test") or name in without for name, service in stack["services"].items())


def test_nobody_waits_for_a_service_that_merely_started(stack: dict[str, Any]) -> None:
    waits = [
        wait["condition"] for service in stack["services"].values() for wait in service.get("depends_on", {}).values()
    ]
    assert set(waits) == {"service_healthy", "service_completed_successfully"}


def test_every_image_is_pinned(stack: dict[str, Any]) -> None:
    for service in stack["services"].values():
        assert re.fullmatch(r"[a-z/-]+:\d[\w.-]+", service["image"])


def test_every_service_is_hardened(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_only_this_machine_can_connect(stack: dict[str, Any]) -> None:
    ports = [port for service in stack["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert sorted(port["target"] for port in ports) == [5000, 8080, 8333]


def test_the_nights_of_the_stack_are_configured(stack: dict[str, Any]) -> None:
    config = load_config(DOCKER / "one-machine.toml")
    bucket = config.data_uri.removeprefix("s3://").split("/")[0]
    assert config.execution.launcher == "subprocess"
    assert f"-bucket={bucket},mlflow" in stack["services"]["seaweedfs"]["command"]
    scheduler = stack["services"]["scheduler"]
    mounted = {volume["target"]: volume["source"] for volume in scheduler["volumes"]}
    assert mounted[scheduler["environment"]["BC_CONFIG"]] == str(DOCKER / "one-machine.toml")


def _compose(env_file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # The package's own script gives 0 whatever the program gives.
    program = Path(sysconfig.get_path("purelib")) / "compose" / "docker-compose"
    command = [
        program,
        "--file",
        DOCKER / "compose.yaml",
        *options,
        "--env-file",
        env_file,
        "config",
        "--format",
        "json",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})


def _variables(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^(\w+)=(.*)$", path.read_text(encoding="utf-8")))
