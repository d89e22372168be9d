"""The model that a reviewer loads from the registry: image bytes or a path in, a probability and a call out.

    model = mlflow.pyfunc.load_model("models:/breast-tumour-classifier@challenger")
    model.predict("7_12.jpg")                        # a path
    model.predict([first_bytes, second_bytes])       # bytes of JPEG, PNG or DICOM
    model.predict(pd.DataFrame({"image": [...]}))    # either, in the first column

MLflow copies this file into every version and runs it when the version is loaded ("models from code"),
so nothing is pickled; `tracking/package.py` writes what lies around it. Torch is imported on loading only,
because MLflow also runs this file where a model is registered, and there is no torch there.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from bc_tasks import pixels
from bc_tasks.config import IngestConfig, PixelsConfig
from bc_tasks.errors import ImageError
from bc_tasks.records import ModelSpec

BATCH_IMAGES = 16
# Bytes come without a name, so without one that could be wrong; what starts otherwise is refused by its content.
NAMES_BY_START = ((b"\xff\xd8", "image.jpg"), (b"\x89PNG", "image.png"), (b"", "image.dcm"))
# Set by MLflow's own scoring server: there, a caller far away must not name files of this machine.
SERVER_MARK = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"


class ServedModel(PythonModel):  # type: ignore[misc]  # MLflow has no types
    """Turns images into probabilities and calls, by the very code that measured the model on the holdout."""

    def load_context(self, context: Any) -> None:
        """Load the weights and the specification that lie in this version."""
        from bc_tasks.training.scoring import load_model, score

        self.spec = ModelSpec.model_validate_json(Path(context.artifacts["spec"]).read_bytes())
        self.pixels_config = PixelsConfig(
            size_px=self.spec.pixels_size_px,
            crop_to_breast=self.spec.crop_to_breast,
            correct_inverted=self.spec.correct_inverted,
        )
        _check_preprocessing(self.spec, self.pixels_config)
        self.score = score
        self.model = load_model(self.spec, Path(context.artifacts["weights"]))

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return probability of cancer (0 to 1), call (1: cancer) and operating point for each row's image.

        Raises:
            MlflowException: an image can't be used; names the row and the reason.
        """
        images = list(model_input.iloc[:, 0])
        parts = [self._probabilities(images, start) for start in range(0, len(images), BATCH_IMAGES)]
        probability = np.concatenate([np.empty(0), *parts])
        return pd.DataFrame(
            {
                "probability": probability,
                "call": (probability >= self.spec.operating_point).astype(np.int64),
                "operating_point": self.spec.operating_point,
            },
            index=model_input.index,
        )

    def _probabilities(self, images: list[Any], start: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        batch = [self._pixels(row, image) for row, image in enumerate(images[start : start + BATCH_IMAGES], start)]
        return self.score(self.model, self.spec, np.stack(batch), batch_size=BATCH_IMAGES)

    def _pixels(self, row: int, image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
        data, name = _read(row, image)
        try:
            decoded = pixels.decode(
                data, name=name, config=self.pixels_config, max_source_pixels=IngestConfig().max_source_pixels
            )
        except ImageError as error:
            title = "the image" if isinstance(image, bytes) else name
            raise _refusal(row, f"{title} can't be used: {error}") from error
        return decoded.pixels


def _check_preprocessing(spec: ModelSpec, config: PixelsConfig) -> None:
    seen = pixels.preprocessing_sha256(config)
    if seen != spec.preprocessing_sha256:
        raise MlflowException(
            f"the code in {Path(pixels.__file__).parent} prepares images otherwise ({seen[:12]}) than the model was "
            f"trained with ({spec.preprocessing_sha256[:12]}): load the model in a process that has not imported "
            "bc_tasks yet, so that it takes its own"
        )


def _read(row: int, image: Any) -> tuple[bytes, str]:
    if isinstance(image, bytes):
        return image, next(name for start, name in NAMES_BY_START if image.startswith(start))
    if not isinstance(image, str | os.PathLike):
        raise _refusal(row, f"a {type(image).__name__} is neither an image's bytes nor a path")
    if SERVER_MARK in os.environ:
        raise _refusal(row, "a server takes images as bytes (base64 in `dataframe_split`), not as paths")
    path = Path(image)
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise _refusal(row, f"can't read {path}: {error.strerror}") from error


def _refusal(row: int, reason: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(f"row {row}: {reason}")


set_model(ServedModel())
