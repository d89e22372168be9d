"""The manifests, Airflow's values, the nights' configuration and the code name the same things."""

import posixpath
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
import yaml
from cluster import INCLUDE, KUBERNETES, Cluster, Document, name_of, references

from bc_tasks.config import RunConfig
from bc_tasks.pods_config import PodsConfig, amount

NIGHTS = "breast-tumour-training"
MLFLOW = "breast-tumour-mlflow"
VALUES = INCLUDE / "helm" / "airflow-values.yaml"
TRIAL_VALUES = INCLUDE / "helm" / "airflow-values-cpu-trial.yaml"


@pytest.fixture(scope="session")
def values(cluster: Cluster) -> Document:
    """Airflow's values, as helm would merge them."""
    merged: Document = yaml.safe_load(VALUES.read_text())
    return _merge(merged, yaml.safe_load(TRIAL_VALUES.read_text())) if cluster.overlay == "cpu-trial" else merged


@pytest.fixture(scope="session")
def external() -> set[tuple[str, str]]:
    """Namespace and name of each secret that a site makes."""
    documents = [
        document
        for path in sorted((KUBERNETES / "components" / "external-secrets").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == "ExternalSecret"
    ]
    return {(document["metadata"]["namespace"], name_of(document)) for document in documents}


def _merge(below: Document, above: Document) -> Document:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


def _endpoints(cluster: Cluster, namespace: str = NIGHTS) -> dict[str, str]:
    data: dict[str, str] = cluster.the("ConfigMap", namespace, "endpoints")["data"]
    return data


def _mlflow_settings(cluster: Cluster) -> dict[str, str]:
    (settings,) = [
        config_map for config_map in cluster.of("ConfigMap") if name_of(config_map).startswith("mlflow-server-")
    ]
    data: dict[str, str] = settings["data"]
    return data


def _total(config: RunConfig, side: str) -> dict[str, Decimal]:
    """Return what the trainings that run at a time, and an evaluation beside them, come to."""
    pods = config.execution.pods
    train, evaluate = (getattr(size, side) for size in (pods.train, pods.evaluate))
    total = {f"{side}.{name}": pods.parallel_trainings * amount(train[name]) + amount(evaluate[name]) for name in train}
    gpus = pods.parallel_trainings * pods.train.gpus_per_pod + pods.evaluate.gpus_per_pod
    return total | ({f"requests.{pods.gpu_resource}": Decimal(gpus)} if side == "requests" else {})


@pytest.mark.parametrize("side", ["requests", "limits"])
def test_the_quota_has_room_for_a_night(cluster: Cluster, config: RunConfig, side: str) -> None:
    hard = cluster.the("ResourceQuota", NIGHTS, "nights")["spec"]["hard"]
    assert {name: needed for name, needed in _total(config, side).items() if needed > amount(hard[name])} == {}


def test_the_quota_is_for_everything_that_a_night_asks_for(cluster: Cluster, config: RunConfig) -> None:
    hard = cluster.the("ResourceQuota", NIGHTS, "nights")["spec"]["hard"]
    assert {"pods", *_total(config, "requests"), *_total(config, "limits")} == set(hard)


def test_the_nights_find_their_namespace_account_priority_and_addresses(cluster: Cluster, config: RunConfig) -> None:
    pods = config.execution.pods
    assert config.execution.launcher == "kubernetes"
    cluster.the("Namespace", None, pods.namespace)
    cluster.the("ServiceAccount", pods.namespace, pods.service_account)
    cluster.the("PriorityClass", None, pods.priority_class)
    for name in pods.env_from_config_maps:
        cluster.the("ConfigMap", pods.namespace, name)


def test_the_nights_start_from_weights_within_their_reach(config: RunConfig) -> None:
    """The hub is not: pods reach S3 and MLflow only."""
    assert config.training.weights == "none" or config.training.weights.startswith(("file:///opt/weights", "s3://"))


def test_the_code_proposes_the_same_names(config: RunConfig) -> None:
    names = ("namespace", "service_account", "env_from_secrets", "env_from_config_maps", "run_as_user")
    assert {name: getattr(config.execution.pods, name) for name in names} == {
        name: getattr(PodsConfig(), name) for name in names
    }


def test_the_secrets_that_a_site_makes_are_those_that_somebody_needs(
    cluster: Cluster, config: RunConfig, values: Document, external: set[tuple[str, str]]
) -> None:
    pods = config.execution.pods
    needed = {(pods.namespace, name) for name in pods.env_from_secrets}
    needed |= {
        (MLFLOW, name) for workload in cluster.workloads for name in references(workload, "secretRef", "secretKeyRef")
    }
    needed |= {("airflow", name) for name in _secrets_of_airflow(values)}
    assert needed - {(MLFLOW, "seaweedfs")} == external


def _secrets_of_airflow(values: Document) -> set[str]:
    keys = ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName")
    from_environment = references(yaml.safe_load(values["extraEnvFrom"]), "secretRef")
    return {values["data"]["metadataSecretName"], *(values[key] for key in keys), *from_environment}


def test_airflow_runs_as_whom_the_rights_are_given_to(cluster: Cluster, values: Document) -> None:
    accounts = {values["workers"]["serviceAccount"]["name"], values["triggerer"]["serviceAccount"]["name"]}
    assert accounts == {subject["name"] for binding in cluster.of("RoleBinding") for subject in binding["subjects"]}


def test_airflow_is_told_the_same_addresses(cluster: Cluster, values: Document) -> None:
    (name,) = references(yaml.safe_load(values["extraEnvFrom"]), "configMapRef")
    assert cluster.the("ConfigMap", "airflow", name)["data"] == _endpoints(cluster) == _endpoints(cluster, MLFLOW)


def test_airflow_reads_the_nights_configuration_from_the_config_map(values: Document) -> None:
    (volume,), (mount,) = values["volumes"], values["volumeMounts"]
    assert volume["name"] == mount["name"]
    (variable,) = values["env"]
    assert variable["name"] == "BC_CONFIG"
    paths = {item["key"]: item["path"] for item in volume["configMap"]["items"]}
    assert variable["value"] == f"{mount['mountPath']}/{paths['night.toml']}"


def test_a_pod_template_is_found_by_the_same_path_here_and_there(values: Document) -> None:
    line = next(
        line for line in (INCLUDE / "config" / "production.toml").read_text().splitlines() if "template_file" in line
    )
    relative = line.split('"')[1]
    assert (INCLUDE / "config" / relative).resolve() == KUBERNETES / "pod-template.yaml"
    paths = {item["key"]: item["path"] for item in values["volumes"][0]["configMap"]["items"]}
    assert posixpath.normpath(f"{posixpath.dirname(paths['night.toml'])}/{relative}") == paths["pod-template.yaml"]


def test_all_three_images_come_from_one_registry_with_one_tag(
    cluster: Cluster, config: RunConfig, values: Document
) -> None:
    (mlflow,) = {container["image"] for _, container in cluster.containers if "bc-mlflow" in container["image"]}
    airflow = f"{values['defaultAirflowRepository']}:{values['defaultAirflowTag']}"
    assert airflow.replace("bc-airflow", "bc-mlflow") == mlflow
    assert config.execution.pods.image.replace("bc-trainer", "bc-mlflow") == mlflow


def test_the_job_that_fixes_the_holdout_runs_airflows_image_on_the_nights_configuration(values: Document) -> None:
    spec = yaml.safe_load((KUBERNETES / "holdout.yaml").read_text())["spec"]["template"]["spec"]
    of_production = yaml.safe_load(VALUES.read_text())
    image = f"{of_production['defaultAirflowRepository']}:{of_production['defaultAirflowTag']}"
    assert spec["containers"][0]["image"] == image
    assert spec["volumes"][-1]["configMap"]["name"] == values["volumes"][0]["configMap"]["name"]


def test_mlflow_answers_under_the_name_that_everybody_is_told(cluster: Cluster) -> None:
    uri = urlsplit(_endpoints(cluster)["MLFLOW_TRACKING_URI"])
    allowed = _mlflow_settings(cluster)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert uri.netloc in allowed
    assert urlsplit(_endpoints(cluster)["BC_MLFLOW_URL"]).netloc in allowed
    assert _service(cluster, uri.hostname) == ("mlflow", uri.port)


def test_mlflow_finds_its_database(cluster: Cluster) -> None:
    settings = _mlflow_settings(cluster)
    database = cluster.the("StatefulSet", MLFLOW, settings["PGHOST"])["spec"]["template"]["spec"]["containers"][0][
        "env"
    ]
    made = {variable["name"]: variable.get("value") for variable in database}
    assert (made["POSTGRES_USER"], made["POSTGRES_DB"]) == (settings["PGUSER"], settings["PGDATABASE"])
    assert _service(cluster, f"{settings['PGHOST']}.{MLFLOW}.svc") == (settings["PGHOST"], int(settings["PGPORT"]))


def test_a_site_with_a_browser_in_front_may_change_models(cluster: Cluster) -> None:
    """MLflow refuses what a browser sends from an address that isn't its own or known; localhost is."""
    url = _endpoints(cluster)["BC_MLFLOW_URL"]
    known = _mlflow_settings(cluster).get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "http://localhost:5000").split(",")
    assert url in known


def _service(cluster: Cluster, host: str | None) -> tuple[str, int]:
    name, namespace, *_ = (host or "").split(".")
    service = cluster.the("Service", namespace, name)
    return name, service["spec"]["ports"][0]["port"]


@pytest.mark.parametrize("cluster", ["cpu-trial"], indirect=True)
def test_the_trials_s3_has_the_buckets_and_the_address_that_everybody_is_told(
    cluster: Cluster, config: RunConfig, values: Document
) -> None:
    uri = urlsplit(_endpoints(cluster)["AWS_ENDPOINT_URL_S3"])
    assert _service(cluster, uri.hostname) == ("seaweedfs", uri.port)
    arguments = cluster.the("StatefulSet", MLFLOW, "seaweedfs")["spec"]["template"]["spec"]["containers"][0]["args"]
    (buckets,) = [argument.removeprefix("-bucket=") for argument in arguments if argument.startswith("-bucket=")]
    told = (
        config.data_uri,
        _mlflow_settings(cluster)["MLFLOW_ARTIFACTS_DESTINATION"],
        values["config"]["logging"]["remote_base_log_folder"],
    )
    assert set(buckets.split(",")) == {urlsplit(uri).netloc for uri in told}
