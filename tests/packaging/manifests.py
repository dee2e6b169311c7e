"""The manifests as `kubectl apply -k` would send them."""

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "packaging/kubernetes"
OVERLAYS = ("vanilla", "deckhouse")
NAMESPACES = {"vanilla": "registry-agent", "deckhouse": "d8-system"}


def built(folder: Path) -> bytes:
    """Return what kustomize makes of a folder."""
    ran = subprocess.run(("kubectl", "kustomize", str(folder)), capture_output=True, check=False, timeout=30)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stderr == b"", ran.stderr.decode()
    return ran.stdout


@functools.cache
def overlay(name: str) -> tuple[Manifest, ...]:
    """Return the manifests of an overlay."""
    return tuple(yaml.safe_load_all(built(KUBERNETES / "overlays" / name)))


def monitored(folder: Path) -> tuple[Manifest, ...]:
    """Return the overlay for any cluster with the monitoring that it offers, built below `folder`."""
    parts = "resources: [kubernetes/overlays/vanilla]\ncomponents: [kubernetes/components/monitoring]\n"
    (folder / "kubernetes").symlink_to(KUBERNETES)
    (folder / "kustomization.yaml").write_text(parts)
    return tuple(yaml.safe_load_all(built(folder)))


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> Iterator[Manifest]:
    """Yield the manifests of some kinds."""
    return (manifest for manifest in manifests if manifest["kind"] in kinds)


def one(manifests: tuple[Manifest, ...], kind: str, name: str = "registry-agent") -> Manifest:
    """Return the one manifest of a kind and name."""
    (found,) = (each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name)
    return found


def pod(manifests: tuple[Manifest, ...]) -> Manifest:
    """Return the spec of the agent's pods."""
    return dict(one(manifests, "DaemonSet")["spec"]["template"]["spec"])


def container(manifests: tuple[Manifest, ...]) -> Manifest:
    """Return the one container of these pods."""
    (found,) = pod(manifests)["containers"]
    return dict(found)


def user(manifests: tuple[Manifest, ...]) -> str:
    """Return what the API server calls the agent's account."""
    metadata = one(manifests, "ServiceAccount")["metadata"]
    return f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}"
