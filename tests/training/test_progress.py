import io

from rich.console import Console

from bc_tasks.training.checkpoints import EpochResult
from bc_tasks.training.progress import show

RESULT = EpochResult(
    epoch=2,
    learning_rate=5e-4,
    training_loss=0.4321,
    tuning={"average_precision": 0.876, "auc": 0.912},
    images_per_second=41.4,
    is_best=True,
)


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    with show(Console(file=out, force_terminal=terminal, width=60), "resnet50", 8) as progress:
        progress.step(2, 3, 10)
        progress.epoch(RESULT)
    return out.getvalue()


def test_a_log_gets_one_plain_unbroken_line_an_epoch() -> None:
    assert shown(terminal=False) == (
        "resnet50 epoch 2/8: training loss 0.4321, tuning average precision 0.876, auc 0.912, learning rate 0.0005, "
        "41 images/s, best so far\n"
    )


def test_a_terminal_gets_a_bar_and_the_line() -> None:
    out = shown(terminal=True)
    assert "resnet50, epoch 2 of 8" in out
    assert "13/80" in out
    assert "training loss 0.4321" in out
