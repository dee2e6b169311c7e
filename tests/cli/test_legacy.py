"""legacy: what stands in the way of registry.d, and the same as registry.d."""

import json
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Ended
from tests.support import configs, folders
from tests.support.conversions import SCHEMA_2, toml
from tests.support.documents import CA
from tests.support.folders import Folder, Plain

LABEL = "node.deckhouse.io/containerd-config-registry"
CONFIG = "etc/containerd/config.toml"
DROP_IN = "etc/containerd/conf.d/additional_registry.toml"
REGISTRY = {
    "mirrors": {"docker.io": {"endpoint": ["https://m.test/v2/hub/"]}},
    "configs": {"m.test": {"auth": {"username": "u", "password": configs.CANARY}, "tls": {"ca_file": "/opt/ca.crt"}}},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a node without any configuration."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(root: Path, path: str, text: str) -> None:
    """Put a file onto the node."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def show(command: Command, root: Path, *flags: str) -> Ended:
    """Run the command; nothing may change on the node."""
    before = folders.identities(root)
    ended = command("legacy", "--root", root, *flags)
    assert before == folders.identities(root)
    return ended


def convert(command: Command, root: Path, *flags: str) -> Ended:
    """Convert into the folder beside the root; nothing may change on the node."""
    return show(command, root, "--convert", str(root.parent / "out"), *flags)


@pytest.mark.parametrize(
    "text", [None, "", "version = 2", f"[{SCHEMA_2}]", f'[{SCHEMA_2}]\nconfig_path = "/etc/containerd/registry.d"']
)
def test_nothing_found_is_0(command: Command, root: Path, text: str | None) -> None:
    """The label alone; what the agent itself sets is nothing."""
    if text is not None:
        write(root, CONFIG, text)
    ended = show(command, root)
    assert (0, f"{LABEL}=default\n", "") == (ended.code, ended.out, ended.err)
    assert {"label": "default", "findings": [], "config": [], "unreadable": [], "managers": []} == json.loads(
        show(command, root, "--json").out
    )


def test_what_was_found_is_1_and_named_by_file_and_key(command: Command, root: Path) -> None:
    """What config.toml itself has does not make the label: the agent can move it aside."""
    write(root, CONFIG, toml({"config_path": "", "mirrors": {"registry": {}, "config_path": {}}}))
    write(root, DROP_IN, toml(REGISTRY))
    ended = show(command, root)
    assert (1, "") == (ended.code, ended.err)
    assert ended.out.splitlines() == [
        f"/{CONFIG}: registry configuration, which does not count for the label",
        f"  {SCHEMA_2}.mirrors.registry",
        f"  {SCHEMA_2}.mirrors.config_path",
        f"/{DROP_IN}: registry configuration",
        f'  {SCHEMA_2}.mirrors."docker.io"',
        f'  {SCHEMA_2}.configs."m.test"',
        f"{LABEL}=custom",
    ]
    found = json.loads(show(command, root, "--json").out)
    assert "custom" == found["label"]
    assert [{"path": f"/{DROP_IN}", "key": f'{SCHEMA_2}.mirrors."docker.io"'}] == found["findings"][:1]
    assert [f"{SCHEMA_2}.mirrors.registry", f"{SCHEMA_2}.mirrors.config_path"] == [
        each["key"] for each in found["config"]
    ]


def test_config_toml_alone_is_1_with_the_default_label(command: Command, root: Path) -> None:
    """There is something to convert, and nothing in the way."""
    write(root, CONFIG, toml(REGISTRY))
    ended = show(command, root)
    assert (1, f"{LABEL}=default") == (ended.code, ended.out.splitlines()[-1])


def test_drop_ins_of_another_generation_are_left_out(command: Command, root: Path) -> None:
    """When the version says which generation this is."""
    write(root, DROP_IN, toml(REGISTRY))
    assert 1 == show(command, root, "--containerd-version", "1.7.24").code
    assert 0 == show(command, root, "--containerd-version", "2.1.9").code


def test_a_file_that_cannot_be_read_is_2(command: Command, root: Path) -> None:
    """With its place, beside what was found elsewhere."""
    write(root, DROP_IN, f'password = "{configs.CANARY}')
    write(root, "etc/containerd/conf.d/b.toml", toml(REGISTRY))
    ended = show(command, root)
    assert 2 == ended.code
    assert f"containerd's /{DROP_IN} cannot be read: not TOML at its end, line 1" in ended.out.splitlines()
    assert f"{LABEL}=custom" == ended.out.splitlines()[-1]
    converted = convert(command, root)
    assert (2, True) == (converted.code, f"error: containerd's /{DROP_IN} cannot be read" in converted.err)
    assert (root.parent / "out/docker.io/hosts.toml").exists()


def test_a_config_toml_that_cannot_be_read_is_2(command: Command, root: Path) -> None:
    """Nor is there anything to convert, as far as anybody can tell."""
    write(root, CONFIG, "[")
    assert 2 == show(command, root).code
    assert (2, "nothing to convert\n") == (convert(command, root).code, convert(command, root).out)


def test_a_certificate_that_is_not_there_is_a_warning(command: Command, root: Path) -> None:
    """The rest is written."""
    write(root, CONFIG, toml(REGISTRY))
    ended = convert(command, root)
    assert (0, True) == (ended.code, "tls.ca_file names a file that cannot be read; not converted" in ended.err)
    assert not list((root.parent / "out").glob("*/*.crt"))


def test_another_manager_is_1(command: Command, root: Path) -> None:
    """Its reason in front."""
    write(root, "etc/containerd/registry.d/.managed-by-agent", "")
    ended = show(command, root)
    assert (1, True) == (ended.code, ended.out.startswith("OtherAgent: another agent says with /etc/containerd/"))
    assert ["OtherAgent"] == [each["reason"] for each in json.loads(show(command, root, "--json").out)["managers"]]


@pytest.mark.parametrize("flags", [(), ("--convert", "out")])
def test_no_node_is_2(command: Command, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A mistyped root is not a clean node."""
    ended = command("legacy", "--root", tmp_path / "none", *flags)
    assert (2, "", True) == (ended.code, ended.out, f"{tmp_path / 'none'} is no directory" in ended.err)


def test_convert_writes_the_tree(command: Command, root: Path) -> None:
    """Modes as on a node, a comment that names the sources, CA files from below the root, absolute links too."""
    write(root, DROP_IN, toml(REGISTRY))
    write(root, "data/ca.crt", CA)
    (root / "opt").mkdir()
    (root / "opt/ca.crt").symlink_to("/data/ca.crt")
    ended = convert(command, root, "--flavour", "deckhouse")
    out = root.parent / "out"
    names = [f"{host}/{file}" for host in ("docker.io", "m.test") for file in ("https-m.test-ca.crt", "hosts.toml")]
    assert (0, [str(out / name) for name in names], "") == (ended.code, ended.out.splitlines(), ended.err)
    host = folders.read(out / "docker.io")
    assert isinstance(host, Folder)
    toml_file, ca_file = host.entries["hosts.toml"], host.entries["https-m.test-ca.crt"]
    assert isinstance(toml_file, Plain)
    assert (0o700, 0o600, Plain(content=CA.encode(), mode=0o644)) == (host.mode, toml_file.mode, ca_file)
    assert f"# Converted by registry-agent from legacy configuration in\n#   /{DROP_IN}\n[host]\n".encode() in (
        toml_file.content
    )
    (url, settings) = next(iter(tomllib.loads(toml_file.content.decode())["host"].items()))
    assert ("https://m.test/v2/hub/", True) == (url, settings["override_path"])
    assert ["/etc/containerd/registry.d/docker.io/https-m.test-ca.crt"] == settings["ca"]


def test_what_cannot_be_converted_is_a_warning(command: Command, root: Path) -> None:
    """On stderr, with file and key, and still 0: a person has to look at it anyway."""
    write(root, CONFIG, toml({"mirrors": {"a.test": {"endpoint": ["ftp://x"]}}, "x": configs.CANARY}))
    ended = convert(command, root)
    warnings = ended.err.splitlines()
    assert (0, 2) == (ended.code, len(warnings))
    assert f'  warning: /{CONFIG}: {SCHEMA_2}.mirrors."a.test".endpoint number 1 must be http' in ended.err
    assert f"  warning: /{CONFIG}: {SCHEMA_2}.x is not known; not converted" in warnings


def test_what_this_containerd_cannot_have_is_a_warning(command: Command, root: Path) -> None:
    """The other hosts are written."""
    write(root, CONFIG, toml({"mirrors": {name: {"endpoint": ["https://m.test"]} for name in ("*", "a.test")}}))
    ended = convert(command, root, "--containerd-version", "1.6.16")
    assert (0, [str(root.parent / "out/a.test/hosts.toml")]) == (ended.code, ended.out.splitlines())
    assert "  warning: _default is not converted: the wildcard host _default needs containerd 1.6.17" in ended.err


def test_nothing_to_convert_writes_nothing(command: Command, root: Path) -> None:
    """Not even the directory."""
    ended = convert(command, root)
    assert (0, "nothing to convert\n", "") == (ended.code, ended.out, ended.err)
    assert not (root.parent / "out").exists()


def test_convert_refuses_a_directory_that_is_not_empty(command: Command, root: Path) -> None:
    """Least of all registry.d itself."""
    write(root, CONFIG, toml(REGISTRY))
    (root.parent / "out").mkdir()
    (root.parent / "out/mine").write_text("x")
    ended = convert(command, root)
    assert (2, "", True) == (ended.code, ended.out, "is not empty" in ended.err)
    assert ["mine"] == [path.name for path in (root.parent / "out").iterdir()]


def test_json_and_convert_exclude_each_other(command: Command, root: Path) -> None:
    """As argparse says it."""
    assert 2 == convert(command, root, "--json").code


def test_odd_file_names_stay_on_their_line(command: Command, root: Path) -> None:
    """In the list, in the comment, in warnings."""
    write(root, "etc/containerd/conf.d/a\n[host].toml", toml(REGISTRY | {"x": 1}))
    assert "/etc/containerd/conf.d/a\\n[host].toml: registry configuration" in show(command, root).out.splitlines()
    ended = convert(command, root)
    assert all(
        line.startswith("  warning: /etc/containerd/conf.d/a\\n[host].toml: ") for line in ended.err.splitlines()
    )
    assert "#   /etc/containerd/conf.d/a\\n[host].toml\n" in (root.parent / "out/docker.io/hosts.toml").read_text()
