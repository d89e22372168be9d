"""How long each DAG file takes to import beyond Airflow itself, in fresh processes, and as a share of Airflow's time.

Airflow reads every DAG file twice a minute and once more in every task, so this time is paid all day.

    python benchmarks/dag_import.py [repeats]
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

DAGS = Path(__file__).resolve().parent.parent / "dags"
TIMED = """
import runpy, sys, time
began = time.perf_counter()
from airflow.sdk import BaseHook, BaseNotifier, BaseOperator, CronTriggerTimetable, Param, dag, task
imported = time.perf_counter()
runpy.run_path(sys.argv[1])
print(imported - began, time.perf_counter() - imported)
"""


def main() -> None:
    """Measure each file and print the table."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    table = Table("DAG file", "Airflow alone, s", "the file on top, s", "share", title=f"median of {repeats} processes")
    for path in sorted(DAGS.glob("*.py")):
        times = [measure(path) for _ in range(repeats)]
        airflow, file = (statistics.median(column) for column in zip(*times, strict=True))
        table.add_row(path.name, f"{airflow:.2f}", f"{file:.3f}", f"{file / airflow:.1%}")
    Console().print(table)


def measure(path: Path) -> tuple[float, float]:
    """Return the seconds that Airflow's own import takes in a fresh process, and then the file's."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"AIRFLOW_HOME": home}
        command = [sys.executable, "-c", TIMED, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    airflow, file = map(float, done.stdout.split()[-2:])
    return airflow, file


if __name__ == "__main__":
    main()
