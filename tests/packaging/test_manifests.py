"""The built manifests: Kubernetes takes them, they fit together, and they ask for no more than the agent needs."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent.settings import Settings
from tests.packaging import api_lists
from tests.packaging.manifests import (
    KUBERNETES,
    NAMESPACES,
    OVERLAYS,
    Manifest,
    built,
    container,
    monitored,
    of_kind,
    one,
    overlay,
    pod,
)

#: The oldest Kubernetes with these policies, and the newest that there are schemas of.
VERSIONS = ("1.30", "1.37")
FOREIGN = "monitoring.coreos.com/"

#: What of the node the agent may touch, and whether it may write there.
MOUNTS = {
    "/etc/containerd": True,
    "/var/lib/registry-agent": True,
    "/run/registry-agent": True,
    "/run/dbus": False,
    "/run/containerd": False,
}
DECKHOUSE_MOUNTS = {
    "/var/lib/node_labels": True,
    "/var/lib/bashible": False,
    "/opt/deckhouse/bin": False,
    "/etc/systemd/system": False,
    "/lib/systemd/system": False,
}


@pytest.fixture(params=[*OVERLAYS, "monitored"])
def manifests(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Manifest, ...]:
    """Return each overlay in turn, and the one for any cluster with monitoring."""
    return monitored(tmp_path) if request.param == "monitored" else overlay(request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_kubernetes_schema(manifests: tuple[Manifest, ...], version: str) -> None:
    """Strictly: no field that Kubernetes does not know."""
    known = [each for each in manifests if not each["apiVersion"].startswith(FOREIGN)]
    assert len(known) > 10
    for manifest in known:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_seen() -> None:
    """The judge of the test above can say no."""
    wrong = yaml.safe_load(yaml.safe_dump(one(overlay("vanilla"), "DaemonSet")))
    wrong["spec"]["template"]["spec"]["hostNetworks"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_would_apply_them(name: str, tmp_path: Path) -> None:
    """`kubectl apply --dry-run=client`, to a server that knows the kinds and has nothing yet."""
    with api_lists.serving() as url:
        command = ("kubectl", "--server", url, "apply", "--dry-run=client", "--validate=false", "-k")
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": os.devnull}
        folder = str(KUBERNETES / "overlays" / name)
        ran = subprocess.run((*command, folder), capture_output=True, check=False, timeout=30, env=environment)
    assert (0, b"") == (ran.returncode, ran.stderr)
    lines = ran.stdout.decode().splitlines()
    assert len(overlay(name)) == len(lines)
    assert all(line.endswith(" created (dry run)") for line in lines)


def test_everything_is_in_its_namespace(manifests: tuple[Manifest, ...]) -> None:
    """What has none says none, Events are told in default, Deckhouse's monitors are elsewhere."""
    home = one(manifests, "ServiceAccount")["metadata"]["namespace"]
    assert home in NAMESPACES.values()
    allowed = {home: set[str](), "default": {"registry-agent-events"}, "d8-monitoring": {"registry-agent"}}
    for manifest in manifests:
        metadata = manifest["metadata"]
        if manifest["kind"] in api_lists.CLUSTER_SCOPED:
            assert "namespace" not in metadata
        else:
            where = metadata["namespace"]
            assert where == home or metadata["name"] in allowed[where]
    text = yaml.safe_dump_all(manifests)
    assert {home} == set(re.findall(r"system:serviceaccount:([-a-z0-9]+):registry-agent", text))


def test_deleting_them_takes_no_secret_away(manifests: tuple[Manifest, ...]) -> None:
    """With its namespace the Secret would go, and agents that still run would release their nodes."""
    assert {"Namespace", "Secret"}.isdisjoint(each["kind"] for each in manifests)


def test_the_namespace_admits_what_is_in_it() -> None:
    """Pods with the node's network and directories; it is applied by itself, for the overlay that has its name."""
    (namespace,) = yaml.safe_load_all((KUBERNETES / "namespace.yaml").read_text())
    kubernetes_validate.validate(namespace, VERSIONS[0], strict=True)
    assert NAMESPACES["vanilla"] == namespace["metadata"]["name"]
    assert {"pod-security.kubernetes.io/enforce": "privileged"} == namespace["metadata"]["labels"]


def test_units_get_what_pods_get_and_leases_by_name() -> None:
    """Kubelet's account has the rest."""
    manifests = tuple(yaml.safe_load_all(built(KUBERNETES / "unit")))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)
    assert one(manifests, "Role", "registry-agent-unit")["rules"] == one(overlay("vanilla"), "Role")["rules"]
    named, create = one(manifests, "Role", "registry-agent-unit-leases")["rules"]
    (of_pods,) = one(overlay("vanilla"), "Role", "registry-agent-leases")["rules"]
    assert {*of_pods["verbs"]} == {*named["verbs"], *create["verbs"]}
    slots = [f"registry-agent-restart-{slot}" for slot in range(Settings().restart_slots)]
    assert (slots, ["create"]) == (named["resourceNames"], create["verbs"])
    groups = [binding["subjects"] for binding in of_kind(manifests, "RoleBinding")]
    assert [[{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]] * 2 == groups


def test_the_agent_sees_these_directories_of_the_node_and_no_more(manifests: tuple[Manifest, ...]) -> None:
    """Directories, each below the root that the agent is told, read-only where it only reads."""
    expected = MOUNTS | (DECKHOUSE_MOUNTS if "d8-" in str(manifests) else {})
    volumes = {volume["name"]: volume["hostPath"] for volume in pod(manifests)["volumes"]}
    mounts = container(manifests)["volumeMounts"]
    found = {volumes[mount["name"]]["path"]: not mount.get("readOnly", False) for mount in mounts}
    assert expected == found
    assert len(volumes) == len(mounts)
    for mount in mounts:
        assert f"/host{volumes[mount['name']]['path']}" == mount["mountPath"]
    assert {"Directory", "DirectoryOrCreate"} >= {path["type"] for path in volumes.values()}
    assert {"name": "REGISTRY_AGENT_ROOT", "value": "/host"} in container(manifests)["env"]


def test_the_pod_has_no_rights_but_those_that_it_needs(manifests: tuple[Manifest, ...]) -> None:
    """Of the host only its network; of root only what is said in daemonset.yaml."""
    spec, security = pod(manifests), container(manifests)["securityContext"]
    assert True is spec["hostNetwork"]
    assert not spec.keys() & {"hostPID", "hostIPC", "initContainers", "shareProcessNamespace"}
    assert (False, False, True) == tuple(
        security[name] for name in ("privileged", "allowPrivilegeEscalation", "readOnlyRootFilesystem")
    )
    assert {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"]} == security["capabilities"]
    assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"]
    assert True is spec["automountServiceAccountToken"]
    assert False is one(manifests, "ServiceAccount")["automountServiceAccountToken"]


def test_kubelet_lets_the_agent_see_a_restart_through(manifests: tuple[Manifest, ...]) -> None:
    """By its patience after SIGTERM: a restart and its way back may each take restart_timeout_s."""
    assert "lifecycle" not in container(manifests)
    assert pod(manifests)["terminationGracePeriodSeconds"] > 2 * Settings().restart_timeout_s + 10


def test_the_pod_runs_on_every_node_and_before_everything_else(manifests: tuple[Manifest, ...]) -> None:
    """Whatever taints a node has."""
    spec = pod(manifests)
    assert ("system-node-critical", [{"operator": "Exists"}]) == (spec["priorityClassName"], spec["tolerations"])
    strategy = one(manifests, "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]
    assert {"maxUnavailable": "10%", "maxSurge": 0} == strategy


def test_probes_ask_the_local_endpoint() -> None:
    """On the node's loopback, where nobody else asks; health decides about a restart, readiness does not."""
    found = container(overlay("vanilla"))
    paths = {name: found[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    local = {"host": "127.0.0.1", "port": "health"}
    assert paths == {
        "startupProbe": {**local, "path": "/healthz"},
        "livenessProbe": {**local, "path": "/healthz"},
        "readinessProbe": {**local, "path": "/readyz"},
    }
    assert "REGISTRY_AGENT_HEALTH_LISTEN" not in {each["name"] for each in found["env"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_image_is_one_setting(name: str, tmp_path: Path) -> None:
    """As `kustomize edit set image` does it."""
    (tmp_path / "kubernetes").symlink_to(KUBERNETES)
    image: dict[str, Any] = {"name": "registry-agent", "newName": "registry.example/registry-agent", "newTag": "1.2.3"}
    content = {"resources": [f"kubernetes/overlays/{name}"], "images": [image]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    ran = subprocess.run(("kubectl", "kustomize", str(tmp_path)), capture_output=True, check=True, timeout=30)
    assert "registry.example/registry-agent:1.2.3" == container(tuple(yaml.safe_load_all(ran.stdout)))["image"]
    assert "registry-agent:VERSION" == container(overlay(name))["image"]
