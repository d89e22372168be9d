"""The Dockerfiles as text: linted, non-root, on a fixed base, and with nothing in the build that nobody named."""

import re
import subprocess
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import pytest

from bc_tasks.environment import CHECKOUT
from bc_tasks.pods_config import PodsConfig

DOCKER = CHECKOUT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*/Dockerfile"))
each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def test_there_is_a_dockerfile_for_each_image() -> None:
    assert [path.parent.name for path in DOCKERFILES] == ["airflow", "mlflow", "trainer"]


@each_dockerfile
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "--no-color", dockerfile], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_all_images_stand_on_one_base_with_a_fixed_tag() -> None:
    bases = {line for path in DOCKERFILES for line in _instructions(path) if line.startswith("ARG BASE_IMAGE")}
    assert len(bases) == 1
    assert re.fullmatch(r"ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm", bases.pop())
    froms = {line.split()[1] for path in DOCKERFILES for line in _instructions(path) if line.startswith("FROM")}
    assert froms == {"${BASE_IMAGE}", "packages", "scratch"}


@each_dockerfile
def test_the_image_runs_as_a_numbered_user_other_than_root(dockerfile: Path) -> None:
    user = [line.split()[1] for line in _instructions(dockerfile) if line.startswith("USER")][-1]
    assert re.fullmatch(r"[1-9]\d*:\d+", user)


def test_pods_run_as_the_user_of_the_trainers_image() -> None:
    user = PodsConfig().run_as_user
    assert f"USER {user}:{user}" in _instructions(DOCKER / "trainer" / "Dockerfile")


@each_dockerfile
def test_the_image_says_which_code_it_holds_and_how_its_health_is_asked(dockerfile: Path) -> None:
    text = "\n".join(_instructions(dockerfile))
    for label in ("title", "description", 'version="${CODE_VERSION}"', 'revision="${REVISION}"'):
        assert f"org.opencontainers.image.{label}" in text
    assert "\nHEALTHCHECK " in text


@each_dockerfile
def test_nothing_gets_into_the_build_but_what_it_copies(dockerfile: Path) -> None:
    rules = [line for line in _lines(Path(f"{dockerfile}.dockerignore")) if not line.startswith("#")]
    admitted = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    assert set(rules) - {f"!{path}" for path in admitted} <= {"*", "**/__pycache__"}
    assert admitted == _copied(dockerfile)
    assert all((CHECKOUT / path).exists() for path in admitted)


def test_secrets_of_the_compose_stack_get_into_no_build() -> None:
    for dockerfile in DOCKERFILES:
        assert not any(fnmatch("docker/.env", f"{path}*") for path in _copied(dockerfile))


@each_dockerfile
def test_what_a_site_lends_to_the_build_is_only_mounted(dockerfile: Path) -> None:
    mounted = set(re.findall(r"--mount=type=secret,id=([a-z.]+),", dockerfile.read_text()))
    assert mounted == {"pip.conf", "uv.toml", "ca.crt"}
    assert not re.search(r"(?m)^(ARG|ENV) .*(INDEX|TOKEN|PASSWORD|PROXY)", dockerfile.read_text())


def _copied(dockerfile: Path) -> set[str]:
    """What a Dockerfile takes from the checkout."""
    copies = [line.split()[1:-1] for line in _instructions(dockerfile) if line.startswith("COPY")]
    return {
        word for words in copies if not words[0].startswith("--from") for word in words if not word.startswith("--")
    }


def _instructions(dockerfile: Path) -> list[str]:
    """Its instructions, each on one line, without comments."""
    text = "\n".join(line for line in _lines(dockerfile) if not line.lstrip().startswith("#"))
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
