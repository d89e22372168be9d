"""The images, really built by buildah on a base of debootstrap's, and run as their users.

BC_BUILD_IMAGES names the images to build, by default the smallest; `make test-images` builds them all.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bc_tasks.embedded import processes
from bc_tasks.environment import CHECKOUT

DOCKER = CHECKOUT / "docker"
NAMES = os.environ.get("BC_BUILD_IMAGES", "mlflow").split()
MISSING = [program for program in ("buildah", "debootstrap") if not shutil.which(program)]
MISSING += ["the rights of root"] if os.geteuid() else []

DAGS_LOAD = """
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("/opt/airflow/dags")
print("loaded:", "nightly_retraining" in bag.dags, bag.import_errors)
"""
TRAINS = """
import timm, torch
torch.set_num_threads(1)
model = timm.create_model("tf_efficientnet_lite0", num_classes=2)
optimizer = torch.optim.AdamW(model.parameters())
with torch.autocast("cpu", torch.bfloat16):
    loss = model(torch.randn(2, 3, 64, 64)).sum()
loss.backward()
optimizer.step()
print("trained, and has CUDA", torch.version.cuda)
"""
ANSWERS = """
import subprocess, sys, time, urllib.error, urllib.request
server = subprocess.Popen(["mlflow", "server", "--app-name", "basic-auth", "--port", sys.argv[1], "--workers", "1"])
def status(path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{path}").status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return None
while status("/health") is None and server.poll() is None:
    time.sleep(0.5)
print("health:", status("/health"), "without a login:", status("/api/2.0/mlflow/experiments/search?max_results=1"))
server.terminate()
"""
AUTH = "[mlflow]\ndefault_permission=READ\ndatabase_uri=sqlite:////scratch/auth.db\nadmin_username=admin\n"
ABSENT = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
AIRFLOW_RUNS = [
    (["/entrypoint", "version"], "3.3.2"),
    (["/entrypoint", "bash", "-c", "exec \\\nairflow version"], "3.3.2"),
    (["/entrypoint", "python", "-c", DAGS_LOAD], "loaded: True {}"),
    (["bc", "config", "/opt/airflow/include/config/production.toml"], "data_uri"),
]
RUNS = {
    "airflow": [*AIRFLOW_RUNS, (["python", "-c", ABSENT, "torch", "timm", "safetensors"], "[]")],
    "airflow-with-trainer": [*AIRFLOW_RUNS, (["python", "-c", TRAINS], "trained, and has CUDA 13")],
    "trainer": [
        (["bc", "--help"], "evaluate"),
        (["python", "-c", TRAINS], "trained, and has CUDA 13"),
        (["torchrun", "--help"], "--nproc-per-node"),
        (["python", "-c", ABSENT, "airflow", "triton", "pip"], "[]"),
        (["sh", "-c", "ls /opt/weights; echo weights: $?"], "weights: 0"),
    ],
    "mlflow": [
        (["sh", "-c", 'printf "$1" > /scratch/auth.ini', "-", AUTH], ""),
        (
            [
                *("env", "MLFLOW_BACKEND_STORE_URI=sqlite:////scratch/mlflow.db"),
                *("MLFLOW_AUTH_CONFIG_PATH=/scratch/auth.ini", "MLFLOW_AUTH_ADMIN_PASSWORD=only-in-this-test"),
                *("MLFLOW_FLASK_SERVER_SECRET_KEY=only-here", "python", "-c", ANSWERS, "{port}"),
            ],
            "health: 200 without a login: 401",
        ),
    ],
}
"""What to run in each image, and what the output must hold."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"images can't be built here without {', '.join(MISSING)}"),
]


@dataclass(frozen=True)
class Builder:
    """Buildah with a storage of its own, so that nothing is left on the machine."""

    environment: dict[str, str]

    def run(self, *command: str | Path, **variables: str) -> str:
        """Run a command; its errors are the test's."""
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | self.environment | variables
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def inside(self, container: str, command: Sequence[str]) -> str:
        """Run a command in a container, as its image's user."""
        return self.run("buildah", "run", container, "--", *command)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A builder with a base image, and room for others."""
    folder = tmp_path_factory.mktemp("images")
    storage = folder / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    # No other isolation works within a container, where CI often is.
    builder = Builder({"CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot", "BUILDER": "buildah"})
    works = subprocess.run(
        ["buildah", "from", "scratch"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | builder.environment,
    )
    if works.returncode:
        pytest.skip(f"buildah doesn't work here: {works.stderr.strip()}")
    try:
        builder.run(DOCKER / "base-image.sh", "localhost/bc-base:test")
        yield builder
    finally:
        builder.run("buildah", "rm", "--all")
        builder.run("buildah", "rmi", "--all", "--force")
        subprocess.run(["umount", folder / "graph" / "overlay"], check=False, capture_output=True)


@pytest.fixture(scope="module", params=NAMES)
def image(request: pytest.FixtureRequest, builder: Builder) -> str:
    """One of the images, built by build.sh."""
    builder.run(
        DOCKER / "build.sh", request.param, BASE_IMAGE="localhost/bc-base:test", TAG="test", REGISTRY="localhost"
    )
    return f"localhost/bc-{request.param}:test"


@pytest.fixture(scope="module")
def container(builder: Builder, image: str) -> str:
    """A container of the image."""
    return builder.run("buildah", "from", image).strip()


def test_the_image_is_lean_and_runs_as_its_user(builder: Builder, container: str) -> None:
    leftovers = "ls -d /etc/pip.conf /etc/uv /build /opt/builder /opt/bc/.lock 2>/dev/null"
    probe = f"id -u; command -v gcc cc pip uv; {leftovers}; touch /opt/touched 2>/dev/null && echo writable"
    config = json.loads(builder.run("buildah", "inspect", container))["Docker"]["config"]
    user = config["User"].split(":")[0]
    assert int(user) > 0
    assert builder.inside(container, ["sh", "-c", f"{probe}; true"]).split() == [user]
    assert "+" in config["Labels"]["org.opencontainers.image.version"]
    assert config["Healthcheck"]["Test"]


def test_the_programs_of_the_image_run(builder: Builder, image: str, container: str) -> None:
    port = str(processes.free_port())
    for command, answer in RUNS[image.removeprefix("localhost/bc-").removesuffix(":test")]:
        assert answer in builder.inside(container, [word.replace("{port}", port) for word in command])
