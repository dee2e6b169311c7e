"""`diff`: what would change on this node, with every secret masked and nothing touched."""

import base64
import os
import pty
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support import configs, folders
from tests.support.agents import COMMAND, REPOSITORY, SOURCE, environment
from tests.support.folders import Folder, Plain
from tests.support.nodes import Node
from tests.support.passes import Passes
from tests.support.reader import REGISTRY_DIR, STATE_FILE

ENCODED = base64.b64encode(f"robot:{configs.CANARY}".encode()).decode()


@pytest.fixture
async def node(tmp_path: Path) -> Node:
    """Return a node on which version v1 is in place, and wanted."""
    passes = Passes(tmp_path / "root")
    passes.node.root.mkdir()
    want(passes.node, configs.simple("v1"))
    await passes.run(configs.simple("v1"))
    return passes.node


def want(node: Node, document: bytes) -> None:
    """Put the desired config where the agent looks for it."""
    (node.root / SOURCE).parent.mkdir(parents=True, exist_ok=True)
    (node.root / SOURCE).write_bytes(document)


def diff(command: Command, node: Node, *flags: str) -> tuple[int, list[str]]:
    """Run the command; return its code and lines, with paths below registry.d. Nothing may change on the node."""
    before = folders.identities(node.root)
    ended = command("diff", "--root", node.root, "--source", "file", "--flavour", "deckhouse", *flags)
    assert before == folders.identities(node.root)
    assert ENCODED not in ended.out + ended.err
    return ended.code, re.sub(f"^(. ){REGISTRY_DIR}/", r"\1", ended.out, flags=re.MULTILINE).splitlines()


def test_no_difference_is_0(command: Command, node: Node) -> None:
    """And not a word, but for the comment that names who asks."""
    text = (node.registry / "r0.test/hosts.toml").read_text()
    (node.registry / "r0.test/hosts.toml").write_text(text.replace("a test", f"the file /{SOURCE}"))
    assert diff(command, node) == (0, [])


def test_a_new_version_is_shown_key_by_key(command: Command, node: Node) -> None:
    """1; URLs and CA paths are shown, the password only as changed, and file names with their modes."""
    want(node, configs.simple("v2", password=f"{configs.CANARY}2"))
    code, lines = diff(command, node)
    directory = "/etc/containerd/registry.d/r0.test"
    assert (1, ["+ r0.test/https-v2.test:5000-ca.crt is new, mode 0644", "~ r0.test/hosts.toml changes"]) == (
        code,
        lines[:2],
    )
    assert lines[-1] == "- r0.test/https-v1.test:5000-ca.crt is removed"
    assert f'-host."https://v1.test:5000".ca = ["{directory}/https-v1.test:5000-ca.crt"]' in lines
    assert f'+host."https://v2.test:5000".ca = ["{directory}/https-v2.test:5000-ca.crt"]' in lines
    assert [line for line in lines if "auth" in line] == [
        '-host."https://v1.test:5000".auth.auth = *** (1)',
        '+host."https://v2.test:5000".auth.auth = *** (2)',
    ]


def test_a_changed_password_is_seen_as_changed(command: Command, node: Node) -> None:
    """Two masked values that differ look different."""
    want(node, configs.simple("v1", password="other"))
    _, lines = diff(command, node)
    assert [line[0] for line in lines if "*** (" in line] == ["-", "+"]


def test_a_mode_that_drifted_is_shown(command: Command, node: Node) -> None:
    """Equal bytes with another mode are not shown as changed bytes."""
    (node.registry / "r0.test/https-v1.test:5000-ca.crt").chmod(0o600)
    (node.registry / "r0.test").chmod(0o755)
    code, lines = diff(command, node)
    assert code == 1
    assert "~ r0.test gets mode 0700 and the agent's owner" in lines
    assert "~ r0.test/https-v1.test:5000-ca.crt gets mode 0644 and the agent's owner" in lines


def test_a_takeover_is_announced(command: Command, node: Node) -> None:
    """Somebody else's directory: saved, then taken over."""
    node.make("r1.test", Folder(entries={"hosts.toml": Plain(content=b"[host]\n")}))
    want(node, configs.simple("v1", hosts=2))
    _, lines = diff(command, node)
    assert "~ r1.test is somebody else's: saved, then taken over" in lines


def test_a_deletion_is_shown_as_the_release_it_will_be(command: Command, node: Node) -> None:
    """Without waiting for the settle time."""
    (node.root / SOURCE).unlink()
    assert diff(command, node) == (
        1,
        ["- r0.test/hosts.toml is removed", "- r0.test/https-v1.test:5000-ca.crt is removed"],
    )


@pytest.mark.parametrize("kind", ["invalid", "unreadable", "obstacle"])
def test_trouble_is_2(command: Command, node: Node, kind: str) -> None:
    """What cannot be compared is trouble, with the reason on stderr."""
    if kind == "invalid":
        want(node, configs.config({}))
    elif kind == "unreadable":
        (node.root / SOURCE).unlink()
        (node.root / SOURCE).parent.rmdir()
    else:
        want(node, configs.simple("v1", hosts=2))
        node.make("r1.test", Plain(content=b""))
    before = folders.identities(node.root)
    ended = command("diff", "--root", node.root, "--source", "file", "--flavour", "deckhouse")
    assert (2, True) == (ended.code, "registry-agent: error: " in ended.err)
    assert before == folders.identities(node.root)


SECRETIVE = [
    pytest.param(
        f'[host."https://m"]\n  [host."https://m".auth]\n    username = "u"\n    password = "{configs.CANARY}"',
        id="auth",
    ),
    pytest.param(f'host."https://m".header.Authorization = ["Basic {configs.CANARY}"]', id="dotted"),
    pytest.param(f"host = {{'https://m' = {{header = {{x-token = '{configs.CANARY}'}}}}}}", id="inline"),
    pytest.param(f"password = '''\n{configs.CANARY}'''", id="multi-line"),
    pytest.param(f"[[a.b]]\nrewrite = [{{token = '{configs.CANARY}'}}]", id="table-array"),
    pytest.param(f"[host.'https://m'.header]\nserver = '{configs.CANARY}'", id="header-server"),
    pytest.param(f"[host.'https://m'.header]\nclient = ['{configs.CANARY}']", id="header-client"),
    pytest.param(f"[host.'https://m'.header]\nrewrite = ['{configs.CANARY}']", id="header-rewrite"),
    pytest.param(f"[host.'https://m'.header]\nusername = '{configs.CANARY}'", id="header-username"),
    pytest.param(f"[header]\nserver = '{configs.CANARY}'", id="top-header-server"),
    pytest.param(f"server = 'https://robot:{configs.CANARY}@m.test'", id="server-user-info"),
    pytest.param(f"[host.'https://robot:{configs.CANARY}@m.test']\nskip_verify = true", id="host-user-info"),
    pytest.param(f"[host.'https://{configs.CANARY}@m.test']\nskip_verify = true", id="host-token"),
    pytest.param(f"not TOML, password {configs.CANARY}", id="not-toml"),
    pytest.param(f"auth = '{configs.CANARY}\n", id="broken-toml"),
    pytest.param(f"# {configs.CANARY}\n[host]", id="comment"),
]


@pytest.mark.parametrize("content", SECRETIVE)
def test_no_secret_of_a_foreign_file_is_shown(command: Command, node: Node, content: str) -> None:
    """However somebody has written a password into hosts.toml, the diff does not repeat it (checked in `command`)."""
    (node.registry / "r0.test/hosts.toml").write_text(content)
    code, lines = diff(command, node)
    assert (1, True) == (code, "~ r0.test/hosts.toml changes" in lines)


def test_no_header_of_the_desired_config_is_shown(command: Command, node: Node) -> None:
    """Values of extra headers may be tokens, whatever the header is called."""
    headers = {"server": configs.CANARY, "username": [configs.CANARY], "X-Token": configs.CANARY}
    want(node, configs.config({"r9.test": [configs.mirror("m.test", headers=headers)]}))
    code, lines = diff(command, node)
    assert (1, 3) == (code, len([line for line in lines if ".header." in line]))


def test_no_control_character_reaches_the_terminal(command: Command, node: Node) -> None:
    """A file of somebody else's cannot recolour or rewrite the operator's terminal."""
    (node.registry / "r0.test/hosts.toml").write_text('server = "https://x\\u001b[2J\\u009b2J\\u0007\\nfake line"')
    _, lines = diff(command, node)
    assert not [line for line in lines if any(not character.isprintable() for character in line)]
    assert "fake line" not in lines


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR, stat.S_IFLNK])
def test_odd_things_in_place_of_a_file_do_not_stop_the_diff(command: Command, node: Node, kind: int) -> None:
    """A FIFO is not waited for, a symlink's target is not shown, and a directory is no traceback."""
    path = node.registry / "r0.test/hosts.toml"
    path.unlink()
    (node.root / "outside").write_text(f"server = 'https://outside-{kind}.test'")
    if kind == stat.S_IFLNK:
        path.symlink_to(node.root / "outside")
    elif kind == stat.S_IFDIR:
        path.mkdir()
    else:
        os.mknod(path, kind | 0o600)
    code, lines = diff(command, node)
    assert (1, []) == (code, [line for line in lines if "outside" in line])


def test_a_file_name_that_is_no_text_is_no_traceback(command: Command, node: Node) -> None:
    """A stale file of ours with any bytes in its name is still named."""
    with open(os.fsencode(node.registry) + b"/r0.test/https-\xff-ca.crt", "wb"):
        pass
    code, lines = diff(command, node)
    assert (1, True) == (code, any("is removed" in line for line in lines))


def test_colors_come_only_when_asked(command: Command, node: Node) -> None:
    """`auto` means none into a pipe; `always` and `never` are obeyed."""
    want(node, configs.simple("v2"))
    has_colors = {
        color: "\x1b[" in "".join(diff(command, node, "--color", color)[1]) for color in ("auto", "always", "never")
    }
    assert {"auto": False, "always": True, "never": False} == has_colors


@pytest.mark.parametrize("no_color", [False, True])
def test_colors_on_a_terminal_follow_no_color(node: Node, *, no_color: bool) -> None:
    """On a real terminal `auto` means colours, unless NO_COLOR is set."""
    want(node, configs.simple("v2"))
    leader, terminal = pty.openpty()
    command = [*COMMAND, "diff", "--root", str(node.root), "--source", "file", "--flavour", "deckhouse"]
    variables = environment() | ({"NO_COLOR": "1"} if no_color else {})
    variables = {name: value for name, value in variables.items() if no_color or name != "NO_COLOR"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=variables, stdout=terminal, check=False)
    os.close(terminal)
    shown = os.read(leader, 65536)
    os.close(leader)
    assert (1, not no_color) == (ended.returncode, b"\x1b[32m" in shown)


def test_the_records_are_the_agents_own_business(command: Command, node: Node) -> None:
    """A state file that is written anew counts as a difference, though no path of a host is shown."""
    (node.registry / STATE_FILE).write_text('[ "r0.test" ]')
    text = (node.registry / "r0.test/hosts.toml").read_text()
    (node.registry / "r0.test/hosts.toml").write_text(text.replace("a test", f"the file /{SOURCE}"))
    code, lines = diff(command, node)
    assert (1, []) == (code, [line for line in lines if "r0.test" in line])
