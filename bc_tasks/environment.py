"""The one place that reads this project's own environment variables.

BC_CONFIG         the TOML file of the nights that Airflow runs; else the checkout's include/config/production.toml
BC_CODE_VERSION   what a run's record names as its code, set where an image is built; else version and commit
BC_MLFLOW_URL     MLflow's address for a browser, where that differs from MLFLOW_TRACKING_URI, its address for programs

AWS_*, MLFLOW_* and AIRFLOW__* belong to boto3, MLflow and Airflow, which read them themselves.
"""

import getpass
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bc_tasks.records import MadeWith

CHECKOUT = Path(__file__).resolve().parent.parent


def config_path() -> Path:
    """Return the configuration file of the nights that Airflow runs."""
    return Path(os.environ.get("BC_CONFIG") or CHECKOUT / "include" / "config" / "production.toml")


def code_version() -> str:
    """Return what names this code: BC_CODE_VERSION, else e.g. `0.1.0+057b06b`, or `0.1.0+057b06b.changed`."""
    return os.environ.get("BC_CODE_VERSION") or version("bc-tasks") + _commit()


def made_with() -> MadeWith:
    """Return the versions that a verdict depends on."""
    return MadeWith(
        code_version=code_version(),
        platform=platform.platform(),
        python=platform.python_version(),
        numpy=version("numpy"),
    )


def user() -> str:
    """Return who runs this program, as the machine knows them; empty where it doesn't, as in some pods."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def mlflow_url() -> str | None:
    """Return where a browser finds MLflow, without a final slash; None: nobody has said."""
    url = os.environ.get("BC_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    return url.rstrip("/") if url.startswith(("http://", "https://")) else None


def _commit() -> str:
    if not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--exclude=*", "--dirty=.changed"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git here, or no commit yet
        return ""
    return f"+{described}"
