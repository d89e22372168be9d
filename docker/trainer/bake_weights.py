"""Puts first weights into the trainer's image: those of a folder, and those that timm's hub has under given names.

    python bake_weights.py GIVEN TARGET [timm name ...]

Every file is opened, and its name compared with what timm knows: a misspelt one would lie unused until the first night.
"""

import shutil
import sys
from pathlib import Path

import timm  # noqa: TID253  # only the image's build runs this file
from huggingface_hub import hf_hub_download
from safetensors import safe_open  # noqa: TID253  # likewise


def main(given: Path, target: Path, names: list[str]) -> None:
    """Copy, fetch, check and list."""
    target.mkdir(parents=True)
    for path in given.glob("*.safetensors"):
        shutil.copyfile(path, target / path.name)
    for name in names:
        shutil.copyfile(hf_hub_download(f"timm/{name}", "model.safetensors"), target / f"{name}.safetensors")
    known = set(timm.list_pretrained())
    for path in sorted(target.iterdir()):
        if path.stem not in known:
            sys.exit(f"{path.name}: timm has no such weights; the name must be one of its own, as resnet50.a1_in1k is")
        with safe_open(path, "pt") as tensors:
            print(f"{path.name}: {len(tensors.keys())} tensors, {path.stat().st_size} bytes")  # noqa: T201  # the build's log


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
