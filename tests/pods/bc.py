"""Stands for `bc` in the trainer image: does what the file `script.py` in the run's folder says."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(sys.argv[sys.argv.index("--run-uri") + 1].removeprefix("file://"))


def leave_the_record() -> None:
    """Do what every step does last. Whether there is a record is all that the operator asks."""
    (FOLDER / "evaluate.json").write_text("{}")


def attempt() -> int:
    """Count the attempts, from 1."""
    number = len(list(FOLDER.glob("attempt-*"))) + 1
    (FOLDER / f"attempt-{number}").touch()
    return number


runpy.run_path(
    str(FOLDER / "script.py"), {"FOLDER": FOLDER, "leave_the_record": leave_the_record, "attempt": attempt()}
)
