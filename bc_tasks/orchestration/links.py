"""The buttons on a task's page: its run or version in MLflow, and the Data Docs of the night."""

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

from bc_tasks import environment
from bc_tasks.errors import RecordMissing

DATA_DOCS_PATH = "/bc/data-docs"
"""Where `plugin.py` serves Data Docs, below Airflow's own address: a browser can't open s3://."""


class DataDocsLink(BaseOperatorLink):
    """To what Great Expectations saw in the run; there also where validation stopped the night."""

    name = "Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002  # Airflow's signature
        """Return the address of the run's Data Docs."""
        run_name = operator.run_uri.rsplit("/", 1)[1]
        return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{DATA_DOCS_PATH}/{quote(run_name)}"


class MlflowLink(BaseOperatorLink):
    """To the model in MLflow: of training, the run; of evaluation, the winner's run; of registration, the version."""

    name = "MLflow"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002  # Airflow's signature
        """Return the address in MLflow; empty, so that there is no button, before the step has left its record."""
        base = environment.mlflow_url()
        try:
            return f"{base}/#{_page(operator)}" if base else ""
        except RecordMissing:
            return ""


def _page(operator: Any) -> str:
    """Source: the routes of MLflow's web page, 3.17.2: /runs/:runUuid, /models/:modelName/versions/:version."""
    from bc_tasks import runs
    from bc_tasks.records import Evaluation, RegisteredModel, TrainedModel, trained_file_name
    from bc_tasks.storage import open_storage

    storage = open_storage()
    if operator.task_id == "register":
        model = runs.read(storage, operator.run_uri, RegisteredModel)
        return f"/models/{quote(model.name)}/versions/{model.version}"
    if operator.task_id == "evaluate":
        return f"/runs/{runs.read(storage, operator.run_uri, Evaluation).challenger_mlflow_run_id}"
    file_name = trained_file_name(operator.backbone)
    return f"/runs/{runs.read(storage, operator.run_uri, TrainedModel, file_name).mlflow_run_id}"
