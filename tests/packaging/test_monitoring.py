"""Alerts, runbook and dashboard speak of what the agent really measures, in words that Prometheus understands."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from agent.metrics import Metrics
from tests.docs.reasons import reasons
from tests.packaging.manifests import KUBERNETES, ROOT, monitored, of_kind, one, overlay

RULES = one(overlay("deckhouse"), "PrometheusRule")
ALERTS: list[dict[str, Any]] = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((KUBERNETES / "components/monitoring/dashboard.json").read_text())
#: What Prometheus adds to each target.
TARGET_LABELS = {"instance", "job", "node"}


def measured() -> dict[str, set[str]]:
    """Return the agent's metrics with their labels, and Prometheus' own."""
    metrics = Metrics()
    metrics.count_request("get", "secrets", 200)
    metrics._reason.labels("InPlace")
    metrics._version.labels("v1")
    metrics._hosts.labels("in_place")
    found: dict[str, set[str]] = {"up": set()}
    for name, labels in re.findall(r"^([a-z_]+)(\{.*\})? ", metrics.exposition().decode(), re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


def selectors(expression: str) -> Iterator[Any]:
    """Yield the selectors of an expression; raises when Prometheus could not parse it."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    assert promql_parser.walk(promql_parser.parse(expression), visit)
    return iter(found)


def dashboard_expressions() -> list[str]:
    """Return the expressions of all panels, with Grafana's variables filled in."""
    targets = (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    return [target.replace("$__rate_interval", "5m").replace("$node", ".*") for target in targets]


def expressions() -> list[str]:
    return [*(alert["expr"] for alert in ALERTS), *dashboard_expressions()]


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_selects_what_the_agent_measures(expression: str) -> None:
    """Metrics by their full names, labels that they have, and of the agent's job only."""
    known, found = measured(), list(selectors(expression))
    assert found
    for selector in found:
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert selector.name in known, selector.name
        assert labels <= known[selector.name] | TARGET_LABELS
        assert "job" in labels


def test_the_dashboards_variable_asks_for_a_metric() -> None:
    """The list of nodes comes from the metric that all agents have."""
    (node,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "node")
    assert 'label_values(registry_agent_ready{job="registry-agent"}, node)' == node["query"]["query"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_reasons_in_expressions_are_reasons_of_the_agent() -> None:
    """A typing error there would be an alert that never fires."""
    matched = (words for found in expressions() for words in re.findall(r'reason=~?"([^"]+)"', found))
    named = {word for words in matched for word in words.split("|")}
    assert named == {"RolledBack", "RestartFailed"}
    assert named <= reasons()


def test_states_and_results_in_expressions_are_values_of_the_agent() -> None:
    """The same for the only other value that is selected by."""
    states = {state for found in expressions() for state in re.findall(r'state="(\w+)"', found)}
    assert {"differs"} == states
    assert 'labels("differs")' in (ROOT / "agent/metrics.py").read_text()


def test_each_alert_has_its_heading_in_the_runbook_and_each_heading_its_alert() -> None:
    """In the same order, and the link leads there."""
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert [alert["alert"] for alert in ALERTS] == headings
    for alert in ALERTS:
        assert f"docs/runbook.md#{alert['alert'].lower()}" == alert["annotations"]["runbook_url"]
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}


def test_links_in_the_runbook_lead_somewhere() -> None:
    """To files beside it and to headings in them."""
    text = (ROOT / "docs/runbook.md").read_text()
    for path, anchor in re.findall(r"\]\(([a-z.-]*)#?([a-z]*)\)", text):
        target = ROOT / "docs" / (path or "runbook.md")
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, (path, anchor)


def test_texts_of_alerts_use_labels_that_their_expressions_keep() -> None:
    """Aggregations drop what they are not told to keep."""
    kept: dict[str, set[str]] = {
        "RegistryAgentAbsent": set(),
        "RegistryAgentForbidden": {"node", "verb", "resource"},
        "RegistryAgentVersionsDiffer": set(),
    }
    known = measured()
    for alert in ALERTS:
        (first, *_) = selectors(alert["expr"])
        labels = kept.get(alert["alert"], TARGET_LABELS | known[first.name])
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
        assert used <= labels, alert["alert"]


@pytest.mark.parametrize("name", ["deckhouse", "monitored"])
def test_prometheus_reaches_the_agent_where_it_listens(name: str, tmp_path: Path) -> None:
    """The monitor selects the pods by their labels, in their namespace, at a port that they have on their address."""
    manifests = monitored(tmp_path) if name == "monitored" else overlay(name)
    monitor, pods = one(manifests, "PodMonitor"), one(manifests, "DaemonSet")
    template = pods["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    namespaces = monitor["spec"].get("namespaceSelector", {}).get("matchNames", [monitor["metadata"]["namespace"]])
    assert [pods["metadata"]["namespace"]] == namespaces
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert port["name"] == endpoint["port"]
    variables = {each["name"]: each for each in container["env"]}
    assert f"$(POD_IP):{port['containerPort']}" == variables["REGISTRY_AGENT_HEALTH_LISTEN"]["value"]
    assert list(variables).index("POD_IP") < list(variables).index("REGISTRY_AGENT_HEALTH_LISTEN")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert {"port": port["name"]}.items() <= container[probe]["httpGet"].items()
        assert "host" not in container[probe]["httpGet"]
    (dashboard,) = of_kind(manifests, "ConfigMap")
    assert DASHBOARD == json.loads(dashboard["data"]["registry-agent.json"])
