"""What the image says of itself, what it does not carry along, and what it does not tell of its builder."""

import os
import re
import subprocess
import sys
from datetime import datetime

import pytest

from tests.image.archive import Archive

pytestmark = pytest.mark.timeout(60)  # the first one reads the whole image

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
SITE_PACKAGES = "opt/registry-agent/lib/python3.11/site-packages/"


@pytest.fixture(scope="session")
def files(archive: Archive) -> dict[str, bytes]:
    """Return the content of every file that a container sees."""
    found: dict[str, bytes] = {}
    for member, content in archive.files():
        folder, _, name = member.name.rpartition("/")
        if name.startswith(".wh."):
            gone = f"{folder}/{name.removeprefix('.wh.')}"
            found = {path: kept for path, kept in found.items() if path != gone and not path.startswith(f"{gone}/")}
        elif member.isfile():
            found[member.name] = content
    return found


def test_it_runs_the_agent_as_root_on_what_is_mounted_below_host(archive: Archive) -> None:
    config = archive.config["config"]
    assert ["tini", "--", "registry-agent", "run"] == config["Entrypoint"] + config["Cmd"]
    assert "0:0" == config["User"]
    names = [variable.partition("=")[0] for variable in config["Env"]]
    assert ["PATH", "PYTHONDONTWRITEBYTECODE", "REGISTRY_AGENT_ROOT"] == names
    assert "REGISTRY_AGENT_ROOT=/host" in config["Env"]


def test_it_has_the_agent_its_libraries_and_templates(files: dict[str, bytes]) -> None:
    needed = ("agent/__pycache__/daemon.cpython-311.pyc", "agent/templates/hosts.toml.j2", "aiohttp/__init__.py")
    assert {f"{SITE_PACKAGES}{name}" for name in needed} <= files.keys()
    assert {BUNDLE, "usr/bin/python3.11", "usr/share/doc/python3.11-minimal/copyright"} <= files.keys()


@pytest.mark.parametrize(
    "unwanted",
    [
        r"(^|/)(pip|setuptools|wheel|hatchling|ensurepip|pytest|mypy)(/|-[0-9])",
        r"^(src|pip)/",
        r"/tests?/",
        r"\.(c|h|pyx|pxd|pyi|o|a)$",
        r"^usr/share/(man|info|locale|lintian)/",
        r"^usr/share/doc/.*/(?!copyright$)[^/]*$",
        r"^var/(lib/apt/lists|cache/apt|log/apt)/.*[^/](?<!/lock)$",
        r"^(home|host|root|run|srv|tmp)/(?!\.bashrc$|\.profile$|lock$)",
    ],
)
def test_it_carries_nothing_along(files: dict[str, bytes], unwanted: str) -> None:
    """No installer, build tool, source, test, manual or cache."""
    assert [] == [name for name in files if re.search(unwanted, name)]


def test_it_tells_nothing_of_the_machine_that_built_it(archive: Archive, files: dict[str, bytes]) -> None:
    """No address of a package index or proxy, in no layer, config or history; no CA but Debian's."""
    about = [(name, repr(getattr(archive, name)).encode()) for name in ("config", "manifest")]
    everything = about + [(member.name, content) for member, content in archive.files()]
    addresses = machine_addresses()
    assert [] == [name for name, content in everything if any(address in content for address in addresses)]
    for name in ("etc/pip.conf", "etc/hostname", "etc/resolv.conf"):
        assert not files.get(name)
    debians = [name for name in files if re.match("usr/share/ca-certificates/.*[.]crt$", name)]
    assert 100 < len(debians) == files[BUNDLE].count(b"BEGIN CERTIFICATE")


def machine_addresses() -> list[bytes]:
    """Return where this machine's pip and proxies point, except to what everybody has."""
    listed = subprocess.run((sys.executable, "-m", "pip", "config", "list"), capture_output=True, check=True).stdout
    found = re.findall(rb"[a-z]+://[^\s'\"]+", listed)
    found += [os.environ[name].encode() for name in os.environ if name.lower().endswith("_proxy")]
    return [address for address in found if len(address) > 8 and b"//pypi.org/" not in address]


def test_every_time_in_what_is_added_to_the_base_is_that_of_the_commit(archive: Archive) -> None:
    """So that the same sources and packages make the same image."""
    created = datetime.fromisoformat(archive.config["created"]).timestamp()
    assert {created} == {member.mtime for member, _ in archive.files(first_layer=1)}
