"""What Airflow loads from this package by itself: the entry point `airflow.plugins` in pyproject.toml names it."""

from functools import cached_property
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from bc_tasks.orchestration import run_note
from bc_tasks.orchestration.links import DATA_DOCS_PATH


class BreastTumourPlugin(AirflowPlugin):
    """The run's note, written by the scheduler, and the Data Docs, served by the API server."""

    name = "bc_tasks"
    listeners: ClassVar[list[Any]] = [run_note]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The pages to mount; made when asked for, because every task loads this plugin, but only one server serves."""
        from bc_tasks.orchestration.data_docs import make_app

        return [{"name": "Data Docs", "url_prefix": DATA_DOCS_PATH, "app": make_app()}]
