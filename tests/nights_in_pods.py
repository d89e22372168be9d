"""The same small night for the fake cluster and for a real one."""

import json
from pathlib import Path

from rich.console import Console

from bc_tasks.config import RunConfig
from bc_tasks.config_file import load_config
from bc_tasks.embedded import demo, demo_data, phantoms
from bc_tasks.storage import Storage, join

BACKBONE = "efficientnet_lite0"
NUM_EPOCHS = 6
CONFIG = """
data_uri = "{data_uri}"
ingest = {{ settle_minutes = 0, shard_images = 64, pixels = {{ size_px = 128 }} }}
validation = {{ max_bad_share = 0.2, min_images = 20, max_class_share_change = 0.4 }}
evaluation = {{ num_resamples = 200 }}
gate = {{ min_recall = 0, min_f1 = 0, min_specificity = 0 }}
registry = {{ model_name = "{model_name}" }}
schedule = {{ retries = 2, retry_delay_seconds = 1 }}

[training]
backbones = ["{backbone}"]
weights = "{weights}"
image_size_px = 96
batch_size = 8
epochs = {num_epochs}
early_stop_epochs = {num_epochs}

[execution]
launcher = "kubernetes"

[execution.pods]
steps = {steps}
image = "{image}"
data_image = "{data_image}"
poll_interval_seconds = 0.5
log_interval_seconds = 2
grace_seconds = 60

[execution.pods.train]
gpus_per_pod = {gpus}
{size}
[execution.pods.evaluate]
gpus_per_pod = {gpus}
{size}
[execution.pods.data]
{size}"""
SIZE = """cpu = "500m"
cpu_limit = "2"
memory = "2Gi"
ephemeral_storage = "4Gi"
shared_memory = "64Mi"
"""


def write_config(
    path: Path, *, data_uri: str, image: str, gpus: int, weights: str, model_name: str, data_image: str = ""
) -> RunConfig:
    """Write the night's configuration to a file, and return it; with `data_image`, ingest and validate are pods too."""
    on_data = ["ingest", "validate"] if data_image else []
    path.write_text(
        CONFIG.format(
            data_uri=data_uri,
            steps=json.dumps([*on_data, "train", "evaluate"]),
            image=image,
            data_image=data_image,
            gpus=gpus,
            size=SIZE,
            weights=weights,
            model_name=model_name,
            backbone=BACKBONE,
            num_epochs=NUM_EPOCHS,
        )
    )
    return load_config(path)


def deliver(storage: Storage, config: RunConfig, folder: Path) -> None:
    """Draw phantoms of 60 patients, fix the holdout and put the first night's images into the inbox."""
    console = Console()
    phantoms.write_batch(folder / "phantoms", phantoms.make_patients(60, seed=5), layout="labels_csv")
    dealt = demo.deal_images(storage, folder / "images", folder / "phantoms", console)
    demo.fix_holdout(storage, config, dealt.holdout, console)
    demo_data.deliver(storage, dealt.first_night, join(config.data_uri, "inbox", "2026-11-first"))
