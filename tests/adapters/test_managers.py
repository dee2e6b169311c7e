"""Who else manages the node: signs below the root, of nodes as they are set up in the field."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from agent.disk import managers
from agent.managers import Manager

REGISTRY_DIR = PurePosixPath("/etc/containerd/registry.d")
STEPS = "var/lib/bashible/bundle_steps"
STEP = f"{STEPS}/030_configure_containerd_registry.sh"
UNIT = "etc/systemd/system/bashible.timer"
WANTED = "etc/systemd/system/multi-user.target.wants/bashible.timer"
SCRIPT = "# Copyright\n\nmkdir -p /etc/containerd/registry.d\n"


def write(root: Path, path: str, text: str = "") -> Path:
    """Put a file onto the node."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def bashible(root: Path, script: str = SCRIPT, *, step: str = STEP) -> None:
    """Set bashible up as its bootstrap does."""
    write(root, step, script)
    write(root, f"{STEPS}/032_configure_containerd.sh", "true")
    write(root, UNIT, "[Timer]")
    (root / WANTED).parent.mkdir()
    (root / WANTED).symlink_to(f"/{UNIT}")


def find(root: Path) -> tuple[Manager, ...]:
    """Look."""
    return managers.find(root, REGISTRY_DIR)


def reasons(root: Path) -> list[str]:
    """Return who was found."""
    return [manager.reason for manager in find(root)]


def test_an_ordinary_node_has_nobody_else(tmp_path: Path) -> None:
    """Debian with containerd and registry.d; nor has a root that is not there."""
    write(tmp_path, "etc/os-release", 'NAME="Debian"\nID=debian\nVERSION_ID="12"\n')
    write(tmp_path, "etc/containerd/config.toml")
    write(tmp_path, "etc/containerd/registry.d/docker.io/hosts.toml")
    (tmp_path / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
    assert [] == reasons(tmp_path)
    assert [] == reasons(tmp_path / "none")


@pytest.mark.parametrize(
    "name",
    [
        "030_configure_containerd_registry.sh",
        "001_configure_containerd_registry.sh",
        "031_configure_containerd_registry.sh",
        "030_configure_containerd_prepull_registry.sh",
        "030_registry.sh",
    ],
)
def test_bashible_is_found_by_its_timer_and_its_step(tmp_path: Path, name: str) -> None:
    """By whatever number the step has."""
    bashible(tmp_path, step=f"{STEPS}/{name}")
    (manager,) = find(tmp_path)
    assert ("BashibleActive", False) == (manager.reason, manager.is_final)
    assert f"/{STEPS}/{name} writes the same files" in manager.message


@pytest.mark.parametrize("script", ["", "\n", "# Copyright\n#\n  # Licensed\n\n"])
def test_a_step_that_does_nothing_is_nobody(tmp_path: Path, script: str) -> None:
    """With an `agent` block, bashible renders it to its license."""
    bashible(tmp_path, script)
    assert [] == reasons(tmp_path)


@pytest.mark.parametrize("name", ["016_additional_registry.sh", "001_configure_registry_proxy.sh", "readme"])
def test_other_steps_are_nobody(tmp_path: Path, name: str) -> None:
    """They write other files."""
    bashible(tmp_path, step=f"{STEPS}/{name}")
    assert [] == reasons(tmp_path)


def test_without_its_timer_bashible_does_not_run(tmp_path: Path) -> None:
    """Disabled, masked or gone; enabling it again is seen."""
    bashible(tmp_path)
    (tmp_path / WANTED).unlink()
    assert [] == reasons(tmp_path)
    (tmp_path / WANTED).symlink_to("../bashible.timer")
    assert ["BashibleActive"] == reasons(tmp_path)
    (tmp_path / UNIT).unlink()
    assert [] == reasons(tmp_path)
    (tmp_path / UNIT).symlink_to("/dev/null")
    assert [] == reasons(tmp_path)


def test_without_its_steps_bashible_is_gone(tmp_path: Path) -> None:
    """How its FAQ takes a node out of its hands; while the directory is only empty, it is writing it anew."""
    bashible(tmp_path)
    for path in (tmp_path / STEPS).iterdir():
        path.unlink()
    assert ["BashibleActive"] == reasons(tmp_path)
    (tmp_path / STEPS).rmdir()
    assert [] == reasons(tmp_path)


def test_a_step_that_cannot_be_read_does_something(tmp_path: Path) -> None:
    """A FIFO is not waited for."""
    bashible(tmp_path)
    (tmp_path / STEP).unlink()
    os.mkfifo(tmp_path / STEP)
    assert ["BashibleActive"] == reasons(tmp_path)


def test_what_cannot_be_told_counts_as_there(tmp_path: Path) -> None:
    """A loop of links for what no right to look would be without root."""
    bashible(tmp_path)
    units = tmp_path / "etc/systemd/system"
    units.rename(tmp_path / "etc/systemd/moved")
    units.symlink_to("system")
    assert ["BashibleActive"] == reasons(tmp_path)
    (tmp_path / STEPS).rename(tmp_path / "steps")
    (tmp_path / STEPS).symlink_to("bundle_steps")
    assert ["BashibleActive"] == reasons(tmp_path)


@pytest.mark.parametrize("name", ["k3s", "rke2"])
@pytest.mark.parametrize(
    "path",
    [
        "var/lib/rancher/{}/agent/etc/containerd/config.toml",
        "var/lib/rancher/{}/agent/etc/containerd/config.toml.tmpl",
        "var/lib/rancher/{}/agent/etc/containerd/config-v3.toml.tmpl",
        "etc/rancher/{}/registries.yaml",
    ],
)
def test_rancher_nodes_are_found_by_their_files(tmp_path: Path, name: str, path: str) -> None:
    """k3s and RKE2 make hosts.toml of registries.yaml at each start, and delete what else is there."""
    write(tmp_path, path.format(name))
    (manager,) = find(tmp_path)
    assert ("RancherNode", False) == (manager.reason, manager.is_final)
    assert f"{name} manages its containerd (/{path.format(name)})" in manager.message


@pytest.mark.parametrize(
    "text", ["ID=talos", 'NAME="Talos"\nID=talos\nVERSION_ID=v1.10.0\n', 'ID="talos"', "ID='talos'"]
)
def test_talos_is_found_by_its_name(tmp_path: Path, text: str) -> None:
    """In os-release, which may be an absolute link."""
    write(tmp_path, "usr/lib/os-release", text)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").symlink_to("/usr/lib/os-release")
    assert ["TalosNode"] == reasons(tmp_path)


def test_talos_is_found_by_its_folders(tmp_path: Path) -> None:
    """Both of them; one alone proves nothing."""
    (tmp_path / "etc/cri/conf.d").mkdir(parents=True)
    write(tmp_path, "etc/os-release", "ID_LIKE=talos\nVARIANT_ID=talos\nID=talosish\n")
    assert [] == reasons(tmp_path)
    (tmp_path / "system").mkdir()
    assert ["TalosNode"] == reasons(tmp_path)


def test_another_agents_marker_is_final_and_comes_first(tmp_path: Path) -> None:
    """It stands in registry.d, wherever that is."""
    bashible(tmp_path)
    write(tmp_path, "etc/containerd/registry.d/.managed-by-agent")
    assert [("OtherAgent", True), ("BashibleActive", False)] == [
        (manager.reason, manager.is_final) for manager in find(tmp_path)
    ]
    assert ["BashibleActive"] == [manager.reason for manager in managers.find(tmp_path, PurePosixPath("/etc/other"))]
