"""The registered model as a reviewer meets it: registered where there is no torch, loaded by MLflow alone."""

import ast
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from night_records import PIXELS, model_spec, write_weights
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from bc_tasks import calibration, pixels
from bc_tasks.embedded.mlflow_server import EmbeddedMlflow
from bc_tasks.records import ModelSpec
from bc_tasks.tracking.package import SERVING_PACKAGES, phantom, requirements
from bc_tasks.training.scoring import load_model, score

pytestmark = pytest.mark.slow

REGISTER = """
    import sys
    from pathlib import Path

    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "torchvision", "timm", "safetensors"):
                raise ImportError(f"{name} is not installed on the scheduler")

    sys.meta_path.insert(0, NoTorch())
    from bc_tasks.config import RegistryConfig
    from bc_tasks.tracking import open_tracking
    from night_records import make_night

    name, weights = sys.argv[1], Path(sys.argv[2])
    config = RegistryConfig(experiment=name, model_name=name, timeout_seconds=30)
    tracking = open_tracking(config)
    with tracking.training_run(f"s3://images/runs/{name}", "efficientnet_lite0", params={}, tags={}) as training:
        pass
    night = make_night(
        f"s3://images/runs/{name}", mlflow_run_id=training.mlflow_run_id, registry=config, weights=weights
    )
    tracking.register(**vars(night), weights=weights)
"""

ASK = """
    import json, os, sys
    from pathlib import Path

    import mlflow
    import pandas as pd

    def attempt(images):
        try:
            return model.predict(images).to_dict("list")
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    model = mlflow.pyfunc.load_model(sys.argv[1])
    paths = sorted(Path(sys.argv[2]).iterdir())
    names, data = [str(path) for path in paths], [path.read_bytes() for path in paths]
    answers = {
        "frame of bytes": attempt(pd.DataFrame({"image": data})),
        "frame of paths": attempt(pd.DataFrame({"image": names})),
        "list of bytes": attempt(data),
        "list of paths": attempt(names),
        "list of both": attempt([data[0], *paths[1:]]),
        "the example": attempt(model.input_example),
        "more than a batch": attempt(data * 6),
        "one path": attempt(names[0]),
        "one image": attempt(data[0]),
        "a torn image": attempt([data[0], data[0][:300]]),
        "a missing file": attempt([names[0], "/nowhere/7.jpg"]),
        "a number": attempt([data[0], 7]),
        "no image": attempt([b""]),
        "modules": [name.removeprefix("bc_tasks.") for name in sys.modules if name.startswith("bc_tasks.")],
        "code": str(Path(sys.modules["bc_tasks.pixels"].__file__)),
        "pickle": os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"],
    }
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    answers["a path, to a server"] = attempt(names[0])
    print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Answers:
    """What the registered model said in a fresh process, and what scoring says of the same images."""

    said: dict[str, Any]
    registering_printed: str
    loading_printed: str
    expected: np.ndarray
    uncalibrated: np.ndarray


@pytest.fixture(scope="module")
def answers(embedded_mlflow: EmbeddedMlflow, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Register a model, load it by its alias, and ask it in every way that it may be asked."""
    folder = tmp_path_factory.mktemp("served")
    weights, images = folder / "model.safetensors", folder / "images"
    write_weights(weights)
    images.mkdir()
    (images / "1.jpg").write_bytes(phantom())
    (images / "2.png").write_bytes(_png())
    (images / "3.dcm").write_bytes(_dicom())
    name = uuid.uuid4().hex
    environment = {**embedded_mlflow.environment(), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    registering = _run(REGISTER, name, str(weights), environment=environment, folder=folder)
    loading = _run(ASK, f"models:/{name}@challenger", str(images), environment=environment, folder=folder)
    return Answers(
        said=json.loads(loading.stdout),
        registering_printed=registering.stdout + registering.stderr,
        loading_printed=loading.stderr,
        expected=_score_directly(model_spec(), weights, sorted(images.iterdir())),
        uncalibrated=_score_directly(
            model_spec().model_copy(update={"temperature": 1.0}), weights, sorted(images.iterdir())
        ),
    )


def _run(script: str, *arguments: str, environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def _score_directly(spec: ModelSpec, weights: Path, paths: list[Path]) -> np.ndarray:
    images = [
        pixels.decode(path.read_bytes(), name=path.name, config=PIXELS, max_source_pixels=10**8).pixels
        for path in paths
    ]
    return score(load_model(spec, weights), spec, images, batch_size=4)


def _grey() -> np.ndarray:
    image = np.zeros((200, 160), dtype=np.uint8)
    image[30:170, :90] = np.random.default_rng(5).integers(90, 190, size=(140, 90))
    return image


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_grey()).save(buffer, format="PNG")
    return buffer.getvalue()


def _dicom() -> bytes:
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.Modality, file.PhotometricInterpretation, file.SamplesPerPixel = "MG", "MONOCHROME2", 1
    file.Rows, file.Columns = _grey().shape
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.PixelData = _grey().tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("way", ["frame of bytes", "frame of paths", "list of bytes", "list of paths", "list of both"])
def test_bytes_and_paths_get_the_probability_that_scoring_gives(answers: Answers, way: str) -> None:
    said = answers.said[way]
    assert said["probability"] == pytest.approx(list(answers.expected), abs=1e-4)
    assert said["operating_point"] == [model_spec().operating_point] * 3
    assert said["call"] == [int(probability >= model_spec().operating_point) for probability in said["probability"]]


def test_the_probability_is_calibrated(answers: Answers) -> None:
    said = np.array(answers.said["list of bytes"]["probability"])
    assert said == pytest.approx(calibration.apply(answers.uncalibrated, model_spec().temperature), abs=1e-4)
    assert np.abs(said - answers.uncalibrated).min() > 1e-3


def test_the_three_images_differ_enough_for_the_test_above_to_fail(answers: Answers) -> None:
    assert len({round(probability, 3) for probability in answers.expected}) == 3


@pytest.mark.parametrize("way", ["one path", "one image", "the example"])
def test_one_image_needs_no_list_around_it(answers: Answers, way: str) -> None:
    assert answers.said[way]["probability"] == pytest.approx([answers.expected[0]], abs=1e-4)


def test_more_images_than_a_batch_are_scored_in_order(answers: Answers) -> None:
    assert answers.said["more than a batch"]["probability"] == pytest.approx(list(answers.expected) * 6, abs=1e-4)


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ("a torn image", r"row 1: the image can't be used: (truncated|unreadable)"),
        ("a missing file", r"row 1: can't read /nowhere/7.jpg: No such file"),
        ("a number", r"row 1: a int is neither an image's bytes nor a path"),
        ("no image", r"row 0: the image can't be used: empty_file"),
        ("a path, to a server", r"row 0: a server takes images as bytes"),
    ],
)
def test_what_is_no_image_is_refused_by_its_row_and_reason(answers: Answers, way: str, complaint: str) -> None:
    assert re.search(rf"^MlflowException: {complaint}", answers.said[way])


def test_the_version_runs_the_code_that_it_carries_with_pickle_refused(answers: Answers) -> None:
    assert answers.said["code"].endswith("/code/bc_tasks/pixels.py")
    assert answers.said["pickle"] == "false"


def test_neither_registering_nor_loading_prints_anything(answers: Answers) -> None:
    assert answers.registering_printed == ""
    assert answers.loading_printed == ""


def test_the_requirements_are_the_trainers_versions_without_the_names_of_builds() -> None:
    pinned = requirements(dict.fromkeys(SERVING_PACKAGES, "1.2.3") | {"torch": "2.99.0+cu130"})
    assert len(pinned) == len(SERVING_PACKAGES)
    assert {"torch==2.99.0", "timm==1.2.3", "python-gdcm==1.2.3; sys_platform == 'linux'"} < set(pinned)


def test_the_requirements_name_all_that_the_served_code_imports(answers: Answers) -> None:
    """By the imports at the top of each of our modules that answering has loaded."""
    installed = set().union(*(_with_dependencies(name) for name in SERVING_PACKAGES))
    distributions = importlib.metadata.packages_distributions()
    imported = {
        distributions[name][0].lower().replace("_", "-")
        for module in [*answers.said["modules"], "served_model"]
        for name in _imports_at_the_top(module)
        if name in distributions and name != "bc_tasks"
    }
    assert {"torch", "timm", "pillow", "pydicom"} < imported
    assert imported <= installed


def _imports_at_the_top(module: str) -> set[str]:
    package = Path(pixels.__file__).parent.joinpath(*module.split("."))
    path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


def _with_dependencies(name: str) -> set[str]:
    direct = importlib.metadata.requires(name) or []
    names = {re.split(r"[ ;<>=!~\[(]", line)[0].lower().replace("_", "-") for line in direct if "extra ==" not in line}
    return {name, *names}
