"""What training and what follows it start from."""

import uuid

import pandas as pd
import pytest
from training_runs import HOLDOUT_PATIENTS, fix_holdout, store_images

from bc_tasks.config import RegistryConfig
from bc_tasks.storage import Storage
from bc_tasks.tracking import Tracking, open_tracking


@pytest.fixture
def tracking(mlflow_environment: dict[str, str]) -> Tracking:  # noqa: ARG001 - sets variables
    """Tracking on the embedded server, with an experiment and a model of the test's own."""
    name = uuid.uuid4().hex
    return open_tracking(RegistryConfig(experiment=name, model_name=name))


@pytest.fixture
def frame(storage: Storage, data_uri: str) -> pd.DataFrame:
    """A snapshot's manifest without the holdout's patients, its pixels stored and the holdout fixed."""
    whole = store_images(storage, data_uri)
    fix_holdout(storage, data_uri, whole)
    return whole[~whole["patient_id"].isin(HOLDOUT_PATIENTS)].reset_index(drop=True)
