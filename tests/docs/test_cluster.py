"""docs/cluster.md is true: its reasons are the code's, and a unit's roles are all that the agent lacks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import errors
from agent.errors import AgentError
from agent.kube.client import Client
from agent.kube.credentials import KubeconfigFile
from agent.managers import Manager
from agent.node_status import make_node_status
from agent.outcome import Mode, Outcome, Standing
from agent.report import make_report
from agent.switching import State, Switched
from tests.apidouble.access import Rule
from tests.apidouble.server import ApiDouble
from tests.docs import reasons
from tests.support.agents import agent_on
from tests.support.approvals import Rival

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text()
NODE = "worker-1"
NEVER_ON_THE_NODE = "-"
WAITS = {"ContainerdNotRunning", "LegacySettling", "RestartBudget", "RestartHeld", "WaitingForApproval"}


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading of the page."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| (.*) \|$", section[1], re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.split(" | ")] for row in rows[1:]]


MANAGERS = ("BashibleActive", "RancherNode", "TalosNode")
STATUS_OF = {row[0]: row[1] for row in table("Reasons")}


def test_the_page_lists_exactly_the_reasons_of_the_code() -> None:
    """Whoever adds a reason says there what it means and what to do."""
    assert reasons.reasons() == set(STATUS_OF)


def test_the_page_lists_exactly_the_reasons_of_events() -> None:
    """The errors' own reasons are one row."""
    assert reasons.event_reasons() == {row[0] for row in table("Events")} - {"reason of an error"}


def test_the_page_lists_exactly_the_codes_of_warnings() -> None:
    """They are in the summary on the Node."""
    assert reasons.warning_codes() == {row[0] for row in table("Warnings")}


def _class_with(reason: str) -> type[AgentError] | None:
    known = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AgentError)]
    return next((each for each in known if each.__dict__.get("reason") == reason), None)


def _error(reason: str) -> AgentError | None:
    """Return an error with a reason as the code would make it; None for a verdict's own reasons."""
    found = _class_with(reason)
    if found is None:
        is_api = reason.startswith("Api")
        is_unsupported = reason.endswith(("Unsupported", "TooOld", "Unknown"))
        if is_api:
            return errors.ApiFailed(reason, "a message", code={"ApiUnauthorized": 401, "ApiForbidden": 403}.get(reason))
        return errors.ConfigUnsupported(reason, "a message", remedy="") if is_unsupported else None
    special: dict[type[AgentError], Callable[[], AgentError]] = {
        errors.ConfigInvalid: lambda: errors.ConfigInvalid((errors.Problem(path="hosts", rule="is empty"),)),
        errors.LastGoodUnusable: lambda: errors.LastGoodUnusable(AgentError("a message")),
        errors.RuntimeUnavailable: lambda: errors.RuntimeUnavailable("Version", "UNAVAILABLE", ""),
        errors.ContainerdConfigChanged: errors.ContainerdConfigChanged,
        errors.SwitchUnfinished: errors.SwitchUnfinished,
        errors.DiskFailed: lambda: errors.DiskFailed("open", "/etc", OSError(5, "Input/output error")),
    }
    return special.get(found, lambda: found("a message"))()


def _outcome(reason: str) -> Outcome:
    """Return an outcome that leads to a reason."""
    error = _error(reason)
    if error is not None:
        return Outcome(mode=Mode.MANAGE, standing=Standing.UNKNOWN, steps=(), errors=(error,))
    if reason in WAITS:
        switched = Switched(state=State.WAITING, reason=reason, message="a message")
        return Outcome(mode=Mode.MANAGE, standing=Standing.CONFIGURED, steps=(), is_in_place=True, switched=switched)
    if reason in MANAGERS:
        managers = (Manager(reason=reason, message="a message"),)
        return Outcome(mode=Mode.OBSERVE, standing=Standing.CONFIGURED, steps=(), is_in_place=True, managers=managers)
    standing, is_in_place, failures = {
        "InPlace": (Standing.CONFIGURED, True, ()),
        "NotConfigured": (Standing.NOT_CONFIGURED, True, ()),
        "ConfirmingDeletion": (Standing.CONFIRMING_DELETION, True, ()),
        "LastGoodInPlace": (Standing.CONFIGURED, True, (errors.CredentialsUnusable("a message"),)),
        "OtherAgent": (Standing.OTHER_AGENT, False, ()),
        "WouldChange": (Standing.CONFIGURED, False, ()),
    }[reason]
    return Outcome(mode=Mode.MANAGE, standing=standing, steps=(), is_in_place=is_in_place, errors=failures)


@pytest.mark.parametrize("reason", sorted(name for name, status in STATUS_OF.items() if status != NEVER_ON_THE_NODE))
def test_the_status_beside_a_reason_is_what_the_node_shows(reason: str) -> None:
    """True, False or Unknown, from the code that writes the condition."""
    said = make_node_status(make_report(_outcome(reason)))
    assert said is not None
    assert (reason, STATUS_OF[reason]) == (said.condition.reason, said.condition.status)


# The roles.


#: What Kubernetes' own role system:node grants kubelet of what the agent asks for.
KUBELETS = {
    *(Rule(verb, "nodes") for verb in ("list", "watch")),
    Rule("patch", "nodes/status"),
    *(Rule(verb, "events") for verb in ("create", "patch")),
}


def packaged_rules(namespace: str) -> set[Rule]:
    """Return what the roles for agents that are units grant."""
    return {
        Rule(verb, resource, name, namespace)
        for file in ("secret.yaml", "leases.yaml")
        for role in yaml.safe_load_all((ROOT / "packaging/kubernetes/unit" / file).read_text())
        for rule in role.get("rules", ())
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [None])
    }


def secret(name: str) -> bytes:
    """Return a document of the demo."""
    return (ROOT / f"demo/{name}.yaml").read_bytes()


def condition(double: ApiDouble) -> str:
    """Return the reason that the Node shows."""
    found: list[dict[str, Any]] = double.cluster.get("nodes", NODE).content["status"]["conditions"]
    return next((str(each["reason"]) for each in found if each["type"] == "RegistryConfigReady"), "")


async def compete(double: ApiDouble, root: Path) -> None:
    """Let two nodes want to restart containerd: the folder has none."""
    credentials = KubeconfigFile(root / "etc/kubernetes/kubelet.conf", root=root, context="")
    async with Client(credentials) as api:
        first, second = Rival(api, "n1"), Rival(api, "n2")
        assert await first.is_granted()
        await first.approval.keep()
        following = asyncio.create_task(second.approval.run())
        assert not await second.is_granted()
        await double.until(lambda: double.count("watch", "leases") > 0)
        await first.approval.release()
        await second.bell.until(lambda: second.bell.rings > 0)
        following.cancel()
        await asyncio.wait({following})


@pytest.mark.timeout(40)
async def test_the_roles_of_units_are_enough_beside_kubelets_and_hold_nothing_else(tmp_path: Path) -> None:
    """Created, refused twice, deleted: nothing is forbidden on the way, and every rule is used."""
    async with ApiDouble(tls=True) as double:
        rules = KUBELETS | packaged_rules("d8-system")
        double.rules = rules
        double.tokens["t"] = f"system:node:{NODE}"
        double.cluster.add_node(NODE)
        (tmp_path / "etc/kubernetes").mkdir(parents=True)
        double.write_kubeconfig(tmp_path / "etc/kubernetes/kubelet.conf", token="t")

        async def becomes(reason: str) -> None:
            await double.until(lambda: condition(double) == reason, timeout_s=15)

        with agent_on(tmp_path) as agent:
            agent.start("--source", "kubernetes", "--node-name", NODE, "--rollout-spread-s", "0")
            await becomes("NotConfigured")
            for document, reason in (("direct", "InPlace"), ("broken", "ConfigInvalid")) * 2:
                double.cluster.put_secret(secret(document))
                await becomes(reason)
            await double.until(lambda: double.count("patch", "events") > 0)
            double.cluster.delete("secrets", "registry-bashible-config", namespace="d8-system")
            await becomes("NotConfigured")
        await compete(double, tmp_path)
    asked = {(each.verb, each.resource) for each in double.requests}
    assert {(rule.verb, rule.resource) for rule in rules} == asked
    assert {403} & {each.code for each in double.requests} == set()
