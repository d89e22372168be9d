"""Writes the folder that becomes a version in the registry: code, weights, specification, signature, requirements.

    model/
    ├── served_model.py              what MLflow runs to load it
    ├── code/bc_tasks/               what it imports of this package, as it was when the model was registered
    ├── artifacts/model.safetensors  the weights, and spec.json beside them: all that training needs to go on
    ├── requirements.txt             the trainer's versions
    └── input_example.json           a phantom, so that the registry shows how the model is called

No torch is needed to write it, and no pickle to read it.
"""

import io
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

import bc_tasks
from bc_tasks.records import TrainedModel

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "spec.json"
SERVING_PACKAGES = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "pydicom",
    "python-gdcm",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)
"""What `served_model.py` and all that it imports need; training records their versions."""

NOT_SERVED = ("__pycache__", "embedded", "orchestration", "steps", "storage", "tracking", "expectations")
"""Parts of this package that have nothing to do with calling a model."""


def write_package(folder: Path, trained: TrainedModel, weights: Path, mlflow_model: Any) -> None:
    """Write the model into `folder`, which must not exist yet; `weights` is a file named `WEIGHTS_FILE`.

    `mlflow_model` carries the ids under which MLflow knows the model and its run.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    # The input column has no name: MLflow then also takes one path, or a list of bytes, without a frame around it.
    inputs = Schema([ColSpec("binary")])
    outputs = Schema([ColSpec("double", "probability"), ColSpec("long", "call"), ColSpec("double", "operating_point")])
    with tempfile.TemporaryDirectory() as parts:
        code, spec = Path(parts) / "bc_tasks", Path(parts) / SPEC_FILE
        shutil.copytree(Path(bc_tasks.__file__).parent, code, ignore=shutil.ignore_patterns(*NOT_SERVED))
        spec.write_text(trained.spec.model_dump_json(indent=1), encoding="utf-8")
        mlflow.pyfunc.save_model(
            path=str(folder),
            mlflow_model=mlflow_model,
            python_model=str(code / "served_model.py"),
            code_paths=[str(code)],
            artifacts={"weights": str(weights), "spec": str(spec)},
            signature=ModelSignature(inputs, outputs),
            input_example=pd.DataFrame({"image": [phantom()]}),
            pip_requirements=requirements(trained.environment.packages),
        )


def requirements(trained_with: Mapping[str, str]) -> list[str]:
    """Pin what serving needs to the versions that the model was trained with, by package name."""
    marks = {"python-gdcm": "; sys_platform == 'linux'"}
    # A version such as 2.15.0+cu130 names a build; package registries know it without that ending.
    return [f"{name}=={trained_with[name].split('+')[0]}{marks.get(name, '')}" for name in SERVING_PACKAGES]


def phantom() -> bytes:
    """Draw a JPEG of 256 x 320 px in which a breast may be imagined: it shows the input's form, and no patient."""
    image = Image.new("L", (256, 320))
    draw = ImageDraw.Draw(image)
    draw.ellipse((-150, 30, 150, 290), fill=110)
    draw.ellipse((20, 120, 90, 190), fill=170)
    buffer = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(6)).save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
