"""From a container's specification to a command on this machine: its environment, its volumes, its user.

A process here lives in no mount namespace. So where a variable, an argument or the working directory names a mounted
path ("/scratch/cache"), it gets the real folder behind it; a path that a program has built in is not found.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fake_kubernetes.container import Command
from fake_kubernetes.images import Image
from fake_kubernetes.objects import Json
from fake_kubernetes.selection import field_of

REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
# A real container's home is "/" for a user without a name, and can't be written to; nor can this.
NO_HOME = "/dev/null"


class NotReady(Exception):
    """A container can't be started yet: the `reason` for which it waits, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def missing_image(container: Json, reason: str) -> NotReady:
    """Return why a container has no image, for the `reason` ErrImagePull or ImagePullBackOff."""
    name = container["image"]
    if container["imagePullPolicy"] == "Never":
        return NotReady("ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never')
    why = f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
    return NotReady(
        reason, why if reason == "ErrImagePull" else f'Back-off pulling image "{name}": ErrImagePull: {why}'
    )


@dataclass
class Sources:
    """Secrets and config maps by (namespace, name)."""

    secrets: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    config_maps: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)

    def find(self, kind: str, namespace: str, reference: Json) -> Mapping[str, str]:
        """Return a secret's or a config map's content. Raises: NotReady: there is none and it is no optional one."""
        contents = (self.secrets if kind == "secret" else self.config_maps).get((namespace, reference["name"]))
        if contents is None and not reference.get("optional"):
            raise NotReady("CreateContainerConfigError", f'{kind} "{reference["name"]}" not found')
        return contents or {}

    def value(self, kind: str, namespace: str, reference: Json) -> str | None:
        """Return the value of one key. Raises: NotReady: it isn't there."""
        contents = self.find(kind, namespace, reference)
        if reference["key"] not in contents and not reference.get("optional"):
            message = f"couldn't find key {reference['key']} in {kind.title()} {namespace}/{reference['name']}"
            raise NotReady("CreateContainerConfigError", message)
        return contents.get(reference["key"])


def make_volumes(pod: Json, sources: Sources, folder: Path) -> None:
    """Make a pod's volumes as folders below `folder`. Raises: NotReady: a secret or config map for one isn't there."""
    for volume in pod["spec"].get("volumes", []):
        place = folder / volume["name"]
        place.mkdir(exist_ok=True)
        try:
            contents = _contents(volume, pod["metadata"]["namespace"], sources)
        except NotReady as missing:
            message = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {missing.message}'
            raise NotReady("ContainerCreating", message) from None
        for name, text in contents.items():
            (place / name).write_text(text)


def _contents(volume: Json, namespace: str, sources: Sources) -> Mapping[str, str]:
    if secret := volume.get("secret"):
        return sources.find("secret", namespace, {**secret, "name": secret["secretName"]})
    return sources.find("configmap", namespace, volume["configMap"]) if "configMap" in volume else {}


def prepare(pod: Json, container: Json, image: Image, sources: Sources, folder: Path) -> Command:
    """Return what to start for a container. Raises: NotReady: something that it needs isn't there."""
    _refuse_root(pod, container, image)
    mounts = {
        mount["mountPath"].rstrip("/"): folder / mount["name"] / mount.get("subPath", "")
        for mount in container.get("volumeMounts", [])
    }
    variables = {"HOSTNAME": pod["metadata"]["name"], "HOME": NO_HOME, **image.environment}
    if "/tmp" in mounts:
        variables["TMPDIR"] = "/tmp"
    given = _variables(pod, container, sources)
    environment = {name: _real_path(value, mounts) for name, value in {**variables, **given}.items()}
    command = image.translate([_expand(part, environment) for part in image.command(container)])
    working_dir = container.get("workingDir", image.working_dir) or folder
    return Command(
        [_real_path(part, mounts) for part in command], environment, Path(_real_path(str(working_dir), mounts))
    )


def _refuse_root(pod: Json, container: Json, image: Image) -> None:
    security = {**pod["spec"]["securityContext"], **container.get("securityContext", {})}
    if not security.get("runAsNonRoot"):
        return
    if security.get("runAsUser") == 0:
        raise NotReady("CreateContainerConfigError", "container's runAsUser breaks non-root policy")
    if "runAsUser" in security:
        return
    if not image.user.isdecimal():
        message = (
            f"container has runAsNonRoot and image has non-numeric user ({image.user}), cannot verify user is non-root"
        )
        raise NotReady("CreateContainerConfigError", message)
    if int(image.user) == 0:
        raise NotReady("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")


def _variables(pod: Json, container: Json, sources: Sources) -> dict[str, str]:
    """Return the variables that a pod gives a container, later ones over earlier ones."""
    namespace, variables = pod["metadata"]["namespace"], dict[str, str]()
    for source in container.get("envFrom", []):
        kind = "secret" if "secretRef" in source else "configmap"
        contents = sources.find(kind, namespace, source.get("secretRef") or source["configMapRef"])
        variables |= {source.get("prefix", "") + name: value for name, value in contents.items()}
    for variable in container.get("env", []):
        if "valueFrom" not in variable:
            variables[variable["name"]] = _expand(variable.get("value", ""), variables)
        elif (value := _value_from(variable["valueFrom"], pod, sources)) is not None:
            variables[variable["name"]] = value
    return variables


def _value_from(source: Json, pod: Json, sources: Sources) -> str | None:
    namespace = pod["metadata"]["namespace"]
    if reference := source.get("secretKeyRef"):
        return sources.value("secret", namespace, reference)
    if reference := source.get("configMapKeyRef"):
        return sources.value("configmap", namespace, reference)
    path = source["fieldRef"]["fieldPath"]
    if match := SUBSCRIPT.fullmatch(path):
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    return str(field_of(pod, path) or "")


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """Put in the values for `$(NAME)`; `$$` is a dollar sign, and an unknown name stays as it is."""
    return REFERENCE.sub(lambda match: "$" if match[0] == "$$" else variables.get(match[1], match[0]), text)


def _real_path(text: str, mounts: Mapping[str, Path]) -> str:
    for path in sorted(mounts, key=len, reverse=True):
        if text == path or text.startswith(f"{path}/"):
            return f"{mounts[path]}{text.removeprefix(path)}"
    return text
