"""Who may do what: the smallest rights that the operator and its trigger work with, and nothing by a wildcard."""

from cluster import Cluster, name_of, namespace_of

NIGHTS = "breast-tumour-training"
RIGHTS = {
    "pod-launcher": {
        "pods": {"create", "get", "list", "patch", "delete"},
        "pods/log": {"get"},
        "events": {"list"},
    },
    "pod-watcher": {
        "pods": {"get", "delete"},
        "pods/log": {"get"},
        "events": {"list", "watch"},
    },
}
HOLDERS = {"pod-launcher": "airflow-worker", "pod-watcher": "airflow-triggerer"}


def test_the_rights_are_these_and_no_more(cluster: Cluster) -> None:
    rights = {
        name_of(role): {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
        for role in cluster.of("Role")
    }
    assert rights == RIGHTS


def test_rights_are_for_the_nights_namespace_and_for_the_core_of_the_api(cluster: Cluster) -> None:
    assert cluster.of("ClusterRole", "ClusterRoleBinding") == []
    for role in cluster.of("Role"):
        assert namespace_of(role) == NIGHTS
        assert all(rule["apiGroups"] == [""] for rule in role["rules"])


def test_each_right_has_one_holder(cluster: Cluster) -> None:
    for binding in cluster.of("RoleBinding"):
        assert binding["roleRef"]["name"] == name_of(binding)
        assert binding["roleRef"]["kind"] == "Role"
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "airflow")
        assert subject["name"] == HOLDERS[name_of(binding)]
    assert {name_of(binding) for binding in cluster.of("RoleBinding")} == set(RIGHTS)


def test_no_pod_of_ours_may_talk_to_the_clusters_api(cluster: Cluster) -> None:
    for account in cluster.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_retraining_yields(cluster: Cluster) -> None:
    (priority,) = cluster.of("PriorityClass")
    assert -10 <= priority["value"] < 0, "above what the autoscaler takes for expendable, below everything else"
    assert priority["preemptionPolicy"] == "Never"
    assert priority["globalDefault"] is False
