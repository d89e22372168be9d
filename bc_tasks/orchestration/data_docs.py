"""Serves the Data Docs of a night out of storage, to those who may see the DAG in Airflow."""

from functools import cache
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bc_tasks import environment
from bc_tasks.config_file import load_config
from bc_tasks.errors import ObjectNotFound
from bc_tasks.storage import Storage, join, open_storage

DAG_ID = "nightly_retraining"
# Whatever lies in storage is shown as it is, but it can run no script under Airflow's address, nor fetch anything.
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"}
RunName = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]  # never "..", nor another folder


def make_app() -> FastAPI:
    """Make the application that Airflow's API server mounts; it reads `<data_uri>/runs/<run>/data-docs/` only."""
    app = FastAPI(title="Data Docs", openapi_url=None)
    may_see_the_run = Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))
    app.get("/{run_name}", dependencies=[may_see_the_run])(serve)
    app.exception_handler(401)(_log_in)
    return app


def serve(run_name: RunName) -> HTMLResponse:
    """Return a run's Data Docs, one page."""
    data_uri, storage = _data()
    try:
        page = storage.read(join(data_uri, "runs", run_name, "data-docs", "index.html"))
    except ObjectNotFound as error:
        raise HTTPException(404, f"{run_name} has no Data Docs: validation did not get that far") from error
    return HTMLResponse(page, headers=HEADERS)


@cache
def _data() -> tuple[str, Storage]:
    config = load_config(environment.config_path())
    return config.data_uri, open_storage(config.storage)


def _log_in(request: Request, error: Exception) -> Response:  # noqa: ARG001  # FastAPI's signature
    return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)))
