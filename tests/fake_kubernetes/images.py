"""Container images that aren't there: how the programs of each are run on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """How to run what an image holds.

    `programs` says what is started for a command's first word: `{"bc": [sys.executable, "-m", "bc_tasks.cli"]}`. Others
    are found by the environment's PATH. `environment` is the image's own, and all that a process sees besides what its
    pod gives it.
    """

    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    working_dir: Path | None = None  # None: an empty folder
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    user: str = "10001"  # numeric, or a name of which a kubelet can't tell whether it is root
    pull_seconds: float = 0

    def command(self, container: Mapping[str, Sequence[str]]) -> list[str]:
        """Return what a container runs: its own command and arguments, else the image's."""
        program = container.get("command") or self.entrypoint
        arguments = container.get("args") or (() if container.get("command") else self.arguments)
        return [*program, *arguments]

    def translate(self, command: Sequence[str]) -> list[str]:
        """Return what is started for a command on this machine."""
        return [*self.programs.get(command[0], command[:1]), *command[1:]]


def image_id(image: str) -> str:
    """Return the digest under which a node reports an image."""
    name, _, digest = image.partition("@")
    return f"{name}@{digest or f'sha256:{sha256(name.encode()).hexdigest()}'}"
