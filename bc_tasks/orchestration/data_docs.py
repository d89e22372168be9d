"""Serves the Data Docs of the nights out of storage, to those who may see the DAG in Airflow."""

import mimetypes
from functools import cache
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Path, Request
from fastapi.responses import RedirectResponse, Response

from bc_tasks import environment
from bc_tasks.config_file import load_config
from bc_tasks.errors import ObjectNotFound
from bc_tasks.storage import Storage, join, open_storage

DAG_ID = "nightly_retraining"
NAME = r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*"  # one part of a path: no "..", nothing hidden, no empty part
RunName = Annotated[str, Path(pattern=f"^{NAME}$")]
PagePath = Annotated[str, Path(pattern=f"^{NAME}(/{NAME})*$")]


def make_app() -> FastAPI:
    """Make the application that Airflow's API server mounts; it reads `<data_uri>/runs/<run>/data-docs/` only."""
    app = FastAPI(title="Data Docs", openapi_url=None)
    allowed = Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))
    app.get("/{run_name}/{page:path}", dependencies=[allowed])(serve)
    app.exception_handler(401)(_log_in)
    return app


def serve(run_name: RunName, page: PagePath) -> Response:
    """Return one page, style sheet or picture of a run's Data Docs."""
    data_uri, storage = _data()
    try:
        content = storage.read(join(data_uri, "runs", run_name, "data-docs", page))
    except ObjectNotFound as error:
        raise HTTPException(404, "no such Data Docs: the run has not been validated, or they were cleared away") from error
    return Response(content, media_type=mimetypes.guess_type(page)[0])


@cache
def _data() -> tuple[str, Storage]:
    config = load_config(environment.config_path())
    return config.data_uri, open_storage(config.storage)


def _log_in(request: Request, error: Exception) -> Response:  # noqa: ARG001  # FastAPI's signature
    return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)))
