"""The images' requirement files: pinned, hashed, of one mind with pyproject.toml, each with what its image needs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bc_tasks.environment import CHECKOUT
from bc_tasks.tracking.package import SERVING_PACKAGES

DOCKER = CHECKOUT / "docker"
FILES = {
    "airflow": DOCKER / "airflow" / "requirements.txt",
    "trainer": DOCKER / "trainer" / "requirements.txt",
    "mlflow": DOCKER / "mlflow" / "requirements.txt",
    "builder": DOCKER / "builder-requirements.txt",
}
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS, GROUPS = PYPROJECT["project"]["optional-dependencies"], PYPROJECT["dependency-groups"]
ASKED_FOR = {
    "airflow": [*PYPROJECT["project"]["dependencies"], *EXTRAS["scheduler"], *GROUPS["airflow-image"]],
    "trainer": [*PYPROJECT["project"]["dependencies"], *EXTRAS["trainer"]],
    "mlflow": GROUPS["mlflow-image"],
    "builder": [*GROUPS["image-builder"], *PYPROJECT["build-system"]["requires"]],
}
each_image = pytest.mark.parametrize("image", FILES)


@each_image
def test_every_package_is_pinned_and_hashed(image: str) -> None:
    text = FILES[image].read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", text.rstrip())
    assert len(entries) == len(_pins(FILES[image])) > 0
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


@each_image
def test_no_registry_is_named(image: str) -> None:
    text = FILES[image].read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|trusted-host| @ ", text)


@each_image
def test_it_holds_what_pyproject_asks_for(image: str) -> None:
    pins = _pins(FILES[image])
    for requirement in map(Requirement, ASKED_FOR[image]):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


@each_image
def test_images_run_the_versions_that_the_tests_ran(image: str) -> None:
    tested = _pins(CHECKOUT / "requirements.txt")
    pins = _pins(FILES[image])
    assert {name: pins[name] for name in pins.keys() & tested.keys()} == {
        name: tested[name] for name in pins.keys() & tested.keys()
    }


def test_airflow_and_trainer_can_share_an_image() -> None:
    airflow, trainer = _pins(FILES["airflow"]), _pins(FILES["trainer"])
    assert all(airflow[name] == trainer[name] for name in airflow.keys() & trainer.keys())


def test_airflow_has_no_torch() -> None:
    assert not {"torch", "torchvision", "timm", "safetensors"} & _pins(FILES["airflow"]).keys()


def test_the_trainer_can_serve_what_it_trains_and_has_no_airflow() -> None:
    pins = _pins(FILES["trainer"])
    assert set(SERVING_PACKAGES) <= pins.keys()
    assert not [name for name in pins if name.startswith("apache-airflow")]
    assert "triton" not in pins  # it needs a compiler when it runs, and there is none


def test_the_images_are_built_by_the_uv_of_the_makefile() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert f"UV_VERSION := {_pins(FILES['builder'])['uv']}\n" in makefile


def _pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)(?:\[[a-z0-9,-]+\])?==([^\s;\\]+)", path.read_text(encoding="utf-8")))
