"""The arithmetic around the training loop: learning rate, class weights, precision."""

import math

import numpy as np
import numpy.typing as npt
import torch

from bc_tasks.config import TrainingConfig
from bc_tasks.errors import ConfigError


def learning_rate(step: int, config: TrainingConfig, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0: up in a line to `learning_rate`, then down half a cosine.

    The last step of the last epoch has `min_learning_rate`.

    Source: Loshchilov & Hutter, SGDR, arXiv 1608.03983, equation 5, without restarts.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    cosine_steps = max(config.epochs * steps_per_epoch - 1 - warmup_steps, 1)
    share = (1 + math.cos(math.pi * (step - warmup_steps) / cosine_steps)) / 2
    return config.min_learning_rate + share * (config.learning_rate - config.min_learning_rate)


def class_weights(config: TrainingConfig, labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the weights of no cancer and cancer in the loss, from the config or from the training labels (N,).

    Source: King & Zeng, Logistic Regression in Rare Events Data (2001), as scikit-learn's "balanced".
    """
    if config.class_weights != "balanced":
        return config.class_weights
    num_cancer = int(labels.sum())
    return len(labels) / (2 * (len(labels) - num_cancer)), len(labels) / (2 * num_cancer)


def reduced_precision(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Return the type that autocast computes in; None: float32 throughout.

    Raises:
        ConfigError: float16 without a GPU, where it would be slow and its range too small.
    """
    if config.precision == "float16" and device.type != "cuda":
        raise ConfigError('training.precision is "float16", but there is no GPU here; write "auto"')
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.precision]
