"""The Debian package on real nodes: the agent under its unit, from installation to purge."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.daemon import REPOSITORY
from tests.node.node import Node
from tests.node.package import SETTINGS, UNIT, Package
from tests.node.registry import Registry
from tests.node.starts import Starts, restart, witnessed
from tests.node.waiting import until

pytestmark = pytest.mark.timeout(180, func_only=True)

BUILD_S = 600.0
HOSTS_TOML = "etc/containerd/registry.d/registry.test/hosts.toml"
ADM = 4
BARE_TOML = "version = 2\n"
POINTS_AT_US = 'config_path = "/etc/containerd/registry.d"'
OTHERS_FILES = "[Service]\nCapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_FOWNER\n"


@pytest.fixture
def starts(node: Node) -> Iterator[Starts]:
    """Witness containerd's starts."""
    with witnessed(node) as starts:
        yield starts


def test_the_package_installs_itself_without_network_and_harms_nothing_without_a_cluster(
    node: Node, package: Package
) -> None:
    """The agent is enabled, runs, and says what it lacks. It brings its own libraries for this Python, compiled."""
    assert node.run("systemctl", "is-enabled", UNIT) == "enabled\n"
    assert package.shows("ActiveState") == "active"
    assert "not ready (" in package.shows("StatusText")
    assert not (node.root / "etc/containerd/registry.d").exists()
    mode = (node.root / "var/lib/registry-agent").stat().st_mode
    assert mode & 0o777 == 0o700
    assert node.run("sh", "-c", "ls -A /usr/lib/registry-agent/agent/__pycache__/daemon.*").count(".pyc") == 1
    assert node.run("registry-agent", "version").startswith("registry-agent ")
    assert node.run("dpkg", "--verify", "registry-agent") == ""


def test_the_unit_is_sound_and_closed(node: Node, package: Package) -> None:
    """The exposure that systemd computes is at most 2.0, and it finds nothing wrong."""
    assert package.is_installed()
    unit = f"/usr/lib/systemd/system/{UNIT}"
    node.run("systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit)
    assert node.run("sh", "-c", f"systemd-analyze verify --man=no {unit} 2>&1 || echo failed") == ""


def test_every_library_loads_under_the_unit_s_own_rules(node: Node, package: Package) -> None:
    """Also those that only some nodes need: D-Bus, HTTP/2, regular expressions, YAML's and HTTP's compiled parts."""
    ours, compiled = "agent.daemon, agent.systemd, agent.cri", "re2, yaml._yaml, aiohttp._http_parser, yarl._quoting_c"
    code = f"import sys; sys.path.insert(0, '/usr/lib/registry-agent'); import {ours}, {compiled}"
    package.drop_in("imports", f'[Service]\nExecStartPre=/usr/bin/python3 -BIS -c "{code}"\n')
    node.run("systemctl", "restart", UNIT)
    assert package.shows("ActiveState") == "active"


def test_the_agent_writes_hosts_toml_and_switches_containerd_from_within_its_unit(
    node: Node, package: Package, starts: Starts, mirror_a: Registry
) -> None:
    """One restart of containerd, none of the agent."""
    config = node.root / "etc/containerd/config.toml"
    config.write_text(BARE_TOML)
    os.chown(config, 0, ADM)
    restart(node)
    starts.forget()
    package.apply(mirror_a, containerd="manage")
    pid = package.shows("MainPID")
    until(package.agent.is_ready, what="the switch")
    assert POINTS_AT_US in config.read_text()
    assert (0, ADM) == (config.stat().st_uid, config.stat().st_gid), "the group is kept"
    assert mirror_a.address in (node.root / HOSTS_TOML).read_text()
    assert pid == package.shows("MainPID")
    until(lambda: package.shows("StatusText").startswith("ready (InPlace)"), what="the status")
    assert len(starts) == 1


def test_a_boot_in_which_containerd_is_restarted_is_no_deadlock(
    node: Node, package: Package, starts: Starts, mirror_a: Registry
) -> None:
    """As part of one transaction, while the start of the agent, which waits for containerd, still runs."""
    package.configure(mirror_a)
    node.run("systemctl", "stop", UNIT, "containerd.service")
    starts.forget()
    package.drop_in("restarts", "[Service]\nExecStartPre=+/bin/systemctl restart containerd.service\n")
    node.run("systemctl", "start", "multi-user.target")
    assert "active\nactive\n" == node.run("systemctl", "is-active", UNIT, "containerd.service")
    assert len(starts) == 2, "its own, and the agent's"


def test_containerd_may_be_installed_after_the_agent(node: Node, package: Package, mirror_a: Registry) -> None:
    """Its directory is made, so that it lies in what the unit lets through."""
    node.run("sh", "-c", f"systemctl stop {UNIT} && rm -r /etc/containerd")
    package.apply(mirror_a)
    assert (node.root / HOSTS_TOML).exists()
    assert (node.root / "etc/containerd").stat().st_mode & 0o777 == 0o755


def test_directories_of_another_user_need_a_drop_in(node: Node, package: Package, mirror_a: Registry) -> None:
    """Without it the agent says what is in the way; with it they are taken over, and given back as they were."""
    folder = node.root / "etc/containerd/registry.d/registry.test"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text("[host]\n")
    node.run(
        "sh",
        "-c",
        f"chown -R 1000:1000 /{folder.relative_to(node.root)} && chmod -R go= /{folder.relative_to(node.root)}",
    )
    package.apply(mirror_a, absent_settle_s="0.2")
    assert "registry.d/registry.test" in package.shows("StatusText")
    assert "DiskFailed" in package.shows("StatusText")
    package.drop_in("others", OTHERS_FILES)
    node.run("systemctl", "restart", UNIT)
    until(package.agent.is_ready, what="the takeover")
    package.agent.withdraw()
    until(lambda: (folder / "hosts.toml").read_text() == "[host]\n", what="the release")
    until(lambda: (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (1000, 0o700), what="the owner")


def test_a_reload_is_a_pass(node: Node, package: Package, mirror_a: Registry) -> None:
    package.apply(mirror_a)
    before = package.agent.status()["last_pass"]["number"]
    node.run("systemctl", "reload", UNIT)
    until(lambda: package.agent.status()["last_pass"]["number"] > before, what="a pass")
    assert package.shows("NRestarts") == "0"


def test_a_killed_agent_is_started_again_and_so_is_one_that_stands_still(
    node: Node, package: Package, mirror_a: Registry
) -> None:
    """The watchdog is fed for as long as the agent lives, and ends one that has stopped."""
    package.apply(mirror_a)
    node.run("sh", "-c", f"kill -KILL {package.shows('MainPID')}")
    until(lambda: (package.shows("NRestarts"), package.shows("ActiveState")) == ("1", "active"), what="a restart")
    fed = package.shows("WatchdogTimestampMonotonic")
    until(lambda: package.shows("WatchdogTimestampMonotonic") != fed, what="the watchdog's food")
    assert package.shows("Result") == "success"
    node.run("sh", "-c", f"kill -STOP {package.shows('MainPID')}")
    until(lambda: (package.shows("NRestarts"), package.shows("ActiveState")) == ("2", "active"), what="a restart")
    assert "Watchdog timeout" in node.run("journalctl", "--no-pager", f"--unit={UNIT}")
    assert "Fatal Python error: Aborted" in node.run("journalctl", "--no-pager", f"--unit={UNIT}"), "where it stood"
    until(package.agent.is_ready, what="ready again")


def test_an_upgrade_of_python_takes_the_agent_along(node: Node, package: Package, mirror_a: Registry) -> None:
    """As python3's own postinst calls it when Debian goes to the next one."""
    package.apply(mirror_a)
    pid = package.shows("MainPID")
    version = node.run("python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()
    node.run("py3clean", "-p", "registry-agent")
    for step in ("rtupdate", "post-rtupdate"):
        node.run("/usr/share/python3/runtime.d/registry-agent.rtupdate", step, "python3.0", version)
    assert list((node.root / "usr/lib/registry-agent/agent/__pycache__").glob("daemon.*.pyc"))
    assert package.shows("ActiveState") == "active"
    assert package.shows("MainPID") != pid


def test_an_upgrade_goes_on_where_the_old_version_was(
    node: Node, package: Package, starts: Starts, following: Path, mirror_a: Registry
) -> None:
    """Settings and files stay, the agent runs anew, containerd does not."""
    package.apply(mirror_a)
    pid, settings, written = (
        package.shows("MainPID"),
        (node.root / SETTINGS[1:]).read_text(),
        (node.root / HOSTS_TOML).stat(),
    )
    starts.forget()
    package.install(following)
    assert node.run("dpkg-query", "--show", "--showformat=${Version}", "registry-agent").endswith("+next")
    assert package.shows("ActiveState") == "active"
    assert package.shows("MainPID") != pid
    assert (node.root / SETTINGS[1:]).read_text() == settings
    assert (node.root / HOSTS_TOML).stat().st_mtime_ns == written.st_mtime_ns
    until(package.agent.is_ready, what="ready")
    assert not starts


def test_an_upgrade_leaves_a_disabled_agent_alone(node: Node, package: Package, following: Path) -> None:
    node.run("systemctl", "disable", "--now", UNIT)
    package.install(following)
    assert package.shows("UnitFileState") == "disabled"
    node.run("systemctl", "enable", UNIT)


def test_removing_and_purging_leave_the_node_as_it_is(
    node: Node, package: Package, starts: Starts, mirror_a: Registry
) -> None:
    """containerd goes on with what was written. What a release needs survives, until there is nothing to release."""
    config = node.root / "etc/containerd/config.toml"
    config.write_text(BARE_TOML)
    package.apply(mirror_a, containerd="manage")
    until(lambda: POINTS_AT_US in config.read_text(), what="the switch")
    before = (config.read_bytes(), (node.root / HOSTS_TOML).read_bytes())
    until(package.agent.is_ready, what="ready")
    starts.forget()
    node.run("dpkg", "--remove", "registry-agent")
    assert not package.is_installed()
    assert not (node.root / "usr/lib/registry-agent").exists()
    assert package.shows("LoadState") == "masked"
    assert before == (config.read_bytes(), (node.root / HOSTS_TOML).read_bytes())
    node.run("dpkg", "--purge", "registry-agent")
    assert before == (config.read_bytes(), (node.root / HOSTS_TOML).read_bytes())
    assert (node.root / "var/lib/registry-agent/ownership.json").exists()
    assert not (node.root / SETTINGS[1:]).exists()
    assert not starts
    package.install()
    package.apply(mirror_a)
    until(package.agent.is_ready, what="ready again")
    assert "taken" not in package.shows("StatusText")


def test_a_purge_of_an_agent_that_manages_nothing_leaves_nothing(
    node: Node, package: Package, mirror_a: Registry
) -> None:
    package.apply(mirror_a, absent_settle_s="0.2")
    package.agent.withdraw()
    until(lambda: package.agent.says("NotConfigured"), what="the release")
    node.run("dpkg", "--purge", "registry-agent")
    assert not (node.root / "var/lib/registry-agent").exists()
    assert not (node.root / "run/registry-agent").exists()
    assert not (node.root / SETTINGS[1:]).exists()


def test_a_purge_releases_the_node_when_it_was_asked_for(
    node: Node, package: Package, starts: Starts, mirror_a: Registry
) -> None:
    """With apt, which removes first and purges then. containerd 1 is back to what it was, and nothing of us is left."""
    config = node.root / "etc/containerd/config.toml"
    config.write_text(BARE_TOML)
    restart(node)
    package.apply(mirror_a, containerd="manage")
    until(package.agent.is_ready, what="the switch")
    package.agent.forget_restarts()
    starts.forget()
    (node.root / "etc/registry-agent/release-on-remove").touch()
    node.run("apt-get", "--yes", "--quiet", "purge", "registry-agent")
    assert not (node.root / HOSTS_TOML).exists()
    assert not (node.root / "etc/registry-agent/release-on-remove").exists()
    state = node.root / "var/lib/registry-agent"
    if node.containerd.startswith("1."):
        assert not state.exists()
        assert config.read_text() == BARE_TOML
        assert len(starts) == 1
    else:
        assert POINTS_AT_US in config.read_text(), "containerd 2 reads registry.d in any case"
        assert (state / "containerd/saved-legacy.json").exists(), "what it said before is only there"
        assert not starts


def test_a_release_that_fails_keeps_the_package(node: Node, package: Package) -> None:
    """What was asked for is not skipped: the agent goes on, and says why."""
    program = node.root / "usr/bin/registry-agent"
    real = program.read_text()
    program.write_text(real.replace("sys.exit(main())", 'sys.exit(1 if "release" in sys.argv else main())'))
    marker = node.root / "etc/registry-agent/release-on-remove"
    marker.touch()
    with pytest.raises(subprocess.CalledProcessError):
        node.run("dpkg", "--purge", "registry-agent")
    assert package.shows("ActiveState") == "active"
    assert (node.root / SETTINGS[1:]).exists()
    marker.unlink()


def test_lintian_finds_nothing(deb: Path) -> None:
    subprocess.run(["lintian", "--allow-root", "--fail-on=error,warning", str(deb)], check=True)


@pytest.mark.timeout(BUILD_S)
def test_two_builds_are_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    """Wherever and whenever they are made."""
    command = [sys.executable, str(REPOSITORY / "packaging/deb/build.py"), str(tmp_path / "again")]
    commit = ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"]
    made_at = subprocess.run(commit, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    environment = {"SOURCE_DATE_EPOCH": made_at, "PIP_CONSTRAINT": "constraints.txt", **os.environ, "TZ": "Asia/Tokyo"}
    subprocess.run(command, check=True, env=environment, umask=0o077, timeout=BUILD_S)
    assert deb.read_bytes() == (tmp_path / "again" / deb.name).read_bytes()
