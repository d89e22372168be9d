"""Who reaches whom, by the overlay's NetworkPolicies: patients' images have one way in and one way out."""

import pytest
from cluster import Cluster, name_of, namespace_of, pod_of
from network import Peer, reaches, selects

NIGHT = Peer("breast-tumour-training", {"app.kubernetes.io/name": "bc-train"})
MLFLOW = Peer("breast-tumour-mlflow", {"app.kubernetes.io/name": "mlflow"})
POSTGRES = Peer("breast-tumour-mlflow", {"app.kubernetes.io/name": "mlflow-postgres"})
SEAWEEDFS = Peer("breast-tumour-mlflow", {"app.kubernetes.io/name": "seaweedfs"})
AIRFLOW = Peer("airflow", {"component": "worker"})
DNS = Peer("kube-system", {"k8s-app": "kube-dns"})
DNS_CACHE = Peer(address="169.254.20.10")
S3 = Peer(address="192.0.2.7")
CLUSTER_API = Peer(address="10.96.0.1")
INTERNET = Peer(address="93.184.216.34")
INGRESS = Peer("ingress-nginx", namespace_labels={"breast-tumour-retraining/reaches-mlflow": "true"})
STRANGER = Peer("default", {"app.kubernetes.io/name": "mlflow"})

EVERYWHERE = [
    (NIGHT, MLFLOW, 5000, True),
    (NIGHT, POSTGRES, 5432, False),
    (NIGHT, INTERNET, 443, False),
    (NIGHT, CLUSTER_API, 443, False),
    (NIGHT, AIRFLOW, 8080, False),
    (NIGHT, NIGHT, 29500, False),
    (AIRFLOW, NIGHT, 22, False),
    (AIRFLOW, MLFLOW, 5000, True),
    (INGRESS, MLFLOW, 5000, True),
    (STRANGER, MLFLOW, 5000, False),
    (STRANGER, POSTGRES, 5432, False),
    (MLFLOW, POSTGRES, 5432, True),
    (MLFLOW, NIGHT, 80, False),
    (MLFLOW, INTERNET, 443, False),
    (POSTGRES, INTERNET, 443, False),
    (POSTGRES, MLFLOW, 5000, False),
]
WITH_S3_OUTSIDE = [
    (NIGHT, S3, 443, True),
    (NIGHT, S3, 80, False),
    (MLFLOW, S3, 443, True),
    (POSTGRES, S3, 443, False),
    (AIRFLOW, POSTGRES, 5432, False),
]
WITH_S3_INSIDE = [
    (NIGHT, SEAWEEDFS, 8333, True),
    (MLFLOW, SEAWEEDFS, 8333, True),
    (AIRFLOW, SEAWEEDFS, 8333, True),
    (NIGHT, SEAWEEDFS, 8888, False),
    (STRANGER, SEAWEEDFS, 8333, False),
    (SEAWEEDFS, INTERNET, 443, False),
    (POSTGRES, SEAWEEDFS, 8333, False),
    (NIGHT, S3, 443, False),
    (AIRFLOW, POSTGRES, 5432, True),
]
BY_OVERLAY = {"gpu": EVERYWHERE + WITH_S3_OUTSIDE, "cpu-trial": EVERYWHERE + WITH_S3_INSIDE}


def test_these_reach_each_other_and_those_do_not(cluster: Cluster) -> None:
    cases = BY_OVERLAY[cluster.overlay]
    assert [case for case in cases if reaches(cluster, *case[:3]) is not case[3]] == []


@pytest.mark.parametrize("server", [DNS, DNS_CACHE], ids=["the cluster's", "the node's cache"])
def test_the_nights_and_mlflow_look_up_names(cluster: Cluster, server: Peer) -> None:
    for who in (NIGHT, MLFLOW):
        assert reaches(cluster, who, server, 53, "UDP")
        assert reaches(cluster, who, server, 53)


def test_without_policies_everybody_would_reach_everybody() -> None:
    assert reaches(Cluster("none", []), STRANGER, POSTGRES, 5432)


def test_each_policy_is_for_pods_that_there_are(cluster: Cluster) -> None:
    pods = [(namespace_of(workload), pod_of(workload)["metadata"]["labels"]) for workload in cluster.workloads]
    pods.append((NIGHT.namespace, NIGHT.labels))
    for policy in cluster.of("NetworkPolicy"):
        chosen = [
            labels
            for namespace, labels in pods
            if namespace == namespace_of(policy) and selects(policy["spec"]["podSelector"], labels)
        ]
        assert chosen, name_of(policy)


def test_nothing_is_allowed_that_is_not_named(cluster: Cluster) -> None:
    """A rule without peers, or without ports, allows all of them."""
    for policy in cluster.of("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], name_of(policy)
            assert rule["ports"], name_of(policy)
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], name_of(policy)
            assert rule["ports"], name_of(policy)
