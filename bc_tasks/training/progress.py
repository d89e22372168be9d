"""Shows a training: a bar in a terminal, and a plain line for each epoch there and in a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bc_tasks.training.checkpoints import EpochResult


@dataclass(frozen=True)
class TrainingProgress:
    """A training's bar and its lines; made by `show`."""

    bar: Progress
    task: TaskID
    backbone: str
    num_epochs: int

    def step(self, epoch: int, step: int, num_steps: int) -> None:
        """Move the bar on."""
        done = (epoch - 1) * num_steps + step
        self.bar.update(
            self.task,
            completed=done,
            total=self.num_epochs * num_steps,
            description=f"{self.backbone}, epoch {epoch} of {self.num_epochs}",
        )

    def epoch(self, result: EpochResult) -> None:
        """Write the epoch's line."""
        self.bar.console.print(
            f"{self.backbone} epoch {result.epoch}/{self.num_epochs}: training loss {result.training_loss:.4f}, "
            f"tuning average precision {result.tuning['average_precision']:.3f}, auc {result.tuning['auc']:.3f}, "
            f"learning rate {result.learning_rate:.2g}, {result.images_per_second:.0f} images/s"
            f"{', best so far' if result.is_best else ''}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def show(console: Console, backbone: str, num_epochs: int) -> Iterator[TrainingProgress]:
    """Show a training of `num_epochs` at most on `console`; the bar only where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(backbone, total=None)
        yield TrainingProgress(bar, task, backbone, num_epochs)
