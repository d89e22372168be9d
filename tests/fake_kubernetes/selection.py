"""Label selectors and field selectors, as they stand in a URL.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api
"""

import re
from collections.abc import Mapping
from typing import Any

from fake_kubernetes.api_errors import bad_request
from fake_kubernetes.objects import Json

BETWEEN_TERMS = re.compile(r",(?![^(]*\))")
EQUALITY = re.compile(r"([^\s!=(),]+)\s*(==|=|!=)\s*([^\s!=(),]*)")
MEMBERSHIP = re.compile(r"([^\s!=(),]+)\s+(in|notin)\s+\(([^()]*)\)")
PRESENCE = re.compile(r"(!?)\s*([^\s!=(),]+)")
FIELDS = {
    "pods": {
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    },
    "events": {
        "metadata.name",
        "metadata.namespace",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "type",
    },
    "namespaces": {"metadata.name", "status.phase"},
}


def matches_labels(selector: str, labels: Mapping[str, str]) -> bool:
    """Say whether labels are what a selector asks for; 400 where it can't be read."""
    return all(_matches_label(term.strip(), labels) for term in BETWEEN_TERMS.split(selector) if term.strip())


def _matches_label(term: str, labels: Mapping[str, str]) -> bool:
    if match := EQUALITY.fullmatch(term):
        key, operator, value = match.groups()
        return (labels.get(key) == value) is (operator != "!=")
    if match := MEMBERSHIP.fullmatch(term):
        key, operator, values = match.groups()
        return (labels.get(key) in [value.strip() for value in values.split(",")]) is (operator == "in")
    if match := PRESENCE.fullmatch(term):
        negation, key = match.groups()
        return (key in labels) is not bool(negation)
    raise bad_request(f"unable to parse requirement: found '{term}'")


def matches_fields(selector: str, resource: str, item: Json) -> bool:
    """Say whether an object's fields are what a selector asks for; 400 for a field that can't be asked for."""
    return all(_matches_field(term, resource, item) for term in filter(None, selector.split(",")))


def _matches_field(term: str, resource: str, item: Json) -> bool:
    match = re.fullmatch(r"([^!=]+)(==|=|!=)([^!=]*)", term)
    if match is None:
        raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
    path, operator, value = match.groups()
    if path not in FIELDS[resource]:
        raise bad_request(f"field label not supported: {path}")
    return (str(field_of(item, path) or "") == value) is (operator != "!=")


def field_of(item: Json, path: str) -> Any:
    """Return what stands at a path such as "metadata.name", or None."""
    value: Any = item
    for name in path.split("."):
        value = (value or {}).get(name)
    return value
