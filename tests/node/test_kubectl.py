"""The real kubectl takes the API double for a kube-apiserver: a judge of the double that is not its author."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.waiting import until

REPOSITORY = Path(__file__).parents[2]
SECRET = ("secret", "registry-bashible-config", "--namespace", "d8-system")
DOCUMENT = b"mode: Direct\nversion: v1\n"


class Kubectl:
    """kubectl with a home and a kubeconfig of its own."""

    def __init__(self, home: Path) -> None:
        """`home` holds what kubectl caches, and the kubeconfig."""
        self.kubeconfig = home / "kubeconfig"
        self.environment = {**os.environ, "HOME": str(home), "KUBECONFIG": str(self.kubeconfig)}

    def __call__(self, *arguments: str, **environment: str) -> str:
        """Run it and return what it prints; raises CalledProcessError."""
        ran = subprocess.run(
            ("kubectl", *arguments),
            env={**self.environment, **environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return ran.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """Get one object."""
        return dict(json.loads(self("get", *arguments, "--output", "json")))

    def refused(self, *arguments: str) -> str:
        """Run it in vain and return what it complains about."""
        with pytest.raises(subprocess.CalledProcessError) as caught:
            self(*arguments)
        return str(caught.value.stderr)


@pytest.fixture
def kubectl(tmp_path: Path) -> Iterator[Kubectl]:
    """Return a kubectl for a double that runs as a program, with TLS, a token, a Node and the Secret."""
    kubectl = Kubectl(tmp_path)
    document = tmp_path / "document.yaml"
    document.write_bytes(DOCUMENT)
    arguments = ("--kubeconfig", str(kubectl.kubeconfig), "--node", "w0", "--secret", str(document), "--token", "t")
    command = (sys.executable, "-m", "tests.apidouble", *arguments)
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"https://127.0.0.1:")
        yield kubectl
        process.terminate()
    assert process.returncode == 0


def value(secret: dict[str, Any], key: str = "config") -> bytes:
    """Return what a Secret holds."""
    return base64.b64decode(secret["data"][key])


def test_kubectl_creates_applies_edits_and_deletes_secrets(kubectl: Kubectl, tmp_path: Path) -> None:
    """Every way in which a person replaces the desired config, with kubectl's own validation on."""
    assert value(kubectl.get(*SECRET)) == DOCUMENT
    kubectl("edit", *SECRET, EDITOR="sed -i s/config:.*/config:\\ djI=/")
    assert value(kubectl.get(*SECRET)) == b"v2"
    kubectl("delete", *SECRET)
    assert 'secrets "registry-bashible-config" not found' in kubectl.refused("get", *SECRET)
    kubectl("create", "secret", "generic", *SECRET[1:], f"--from-file=config={tmp_path / 'document.yaml'}")
    assert value(kubectl.get(*SECRET)) == DOCUMENT
    manifest = tmp_path / "secret.yaml"
    for content, verdict in (("a", "created"), ("b", "configured")):
        secret = {"metadata": {"name": "applied"}, "data": {"config": base64.b64encode(content.encode()).decode()}}
        manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "Secret", **secret}))
        assert f"secret/applied {verdict}\n" == kubectl("apply", "--filename", str(manifest))
    assert "secret/applied unchanged\n" == kubectl("apply", "--filename", str(manifest))
    assert b"b" == value(kubectl.get("secret", "applied"))


def test_kubectl_changes_and_describes_nodes(kubectl: Kubectl, tmp_path: Path) -> None:
    """Labels, annotations and the spec change, the status stays; Events are found by what they are about."""
    before = kubectl.get("node", "w0")
    kubectl("label", "node", "w0", "node.deckhouse.io/containerd-config-registry=default")
    kubectl("annotate", "node", "w0", "registry.deckhouse.io/version=v1")
    kubectl("cordon", "w0")
    kubectl("patch", "node", "w0", "--patch", '{"status": {"conditions": [{"type": "Other", "status": "True"}]}}')
    after = kubectl.get("node", "w0")
    assert ("v1", True, before["status"]) == (
        after["metadata"]["annotations"]["registry.deckhouse.io/version"],
        after["spec"]["unschedulable"],
        after["status"],
    )
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "w0.1", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "w0", "uid": "w0"},
        "reason": "RegistryConfigApplied",
        "type": "Normal",
        "source": {"component": "registry-agent"},
    }
    manifest = tmp_path / "event.json"
    manifest.write_text(json.dumps(event))
    kubectl("create", "--filename", str(manifest))
    described = kubectl("describe", "node", "w0")
    assert "containerd://1.7.24" in described
    assert "RegistryConfigApplied" in described


def test_kubectl_watches_what_its_field_selector_names(kubectl: Kubectl, tmp_path: Path) -> None:
    """It prints a line for what is there, and one for each change."""
    output = tmp_path / "watched"
    command = ("kubectl", "get", *SECRET, "--watch", "--output", "jsonpath={.data.config}{'\\n'}")
    with output.open("wb") as sink, subprocess.Popen(command, env=kubectl.environment, stdout=sink) as watching:
        until(lambda: len(output.read_text().splitlines()) == 1, what="the first line")
        kubectl("create", "secret", "generic", "other", "--namespace", "d8-system", "--from-literal=config=other")
        kubectl("patch", *SECRET, "--type", "merge", "--patch", '{"data": {"config": "djI="}}')
        until(lambda: len(output.read_text().splitlines()) == 2, what="the second line")
        watching.terminate()
    assert output.read_text().splitlines()[1] == "djI="
