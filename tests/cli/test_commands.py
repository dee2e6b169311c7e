"""version, --help, validate, render: exit codes and words."""

import base64
import json
import platform
import subprocess
from pathlib import Path

import pytest

from agent import __version__
from agent.settings import options
from tests.cli.conftest import Command
from tests.support import configs, folders
from tests.support.agents import COMMAND, REPOSITORY, environment
from tests.support.folders import Folder

COMMANDS = ("run", "diff", "validate", "render", "legacy", "status", "version")


def test_version(command: Command) -> None:
    """The agent's and Python's version on one line; `--version` says the agent's."""
    ended = command("version")
    expected = f"registry-agent {__version__} (Python {platform.python_version()})\n"
    assert (0, expected) == (ended.code, ended.out)
    assert command("--version").out == f"registry-agent {__version__}\n"


def test_help_names_every_command(command: Command) -> None:
    """The commands and the meaning of exit codes are on the first page."""
    ended = command("--help")
    assert ended.code == 0
    assert [name for name in COMMANDS if f"\n    {name} " not in ended.out] == []
    assert "exit codes:" in ended.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(command: Command, name: str) -> None:
    """Every page says what the command does and what its exit codes mean."""
    ended = command(name, "--help")
    assert (0, True) == (ended.code, "exit codes:" in ended.out)


@pytest.mark.parametrize("name", ["run", "diff"])
def test_help_explains_every_setting(command: Command, name: str) -> None:
    """Flag, default and environment variable of each setting, and the unit of each that is a time."""
    text = "".join(command(name, "--help").out.split())  # lines are wrapped, also at hyphens
    for option in options():
        assert option.flag in text
        assert f"[default:{option.default or 'empty'};{option.variable}]" in text
        if option.name.endswith("_s"):
            assert option.description.startswith("Seconds")


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["validate"], ["render", "x"], ["run", "--none"]])
def test_wrong_usage_is_2(command: Command, arguments: list[str]) -> None:
    """Usage errors go to stderr and end with 2."""
    ended = command(*arguments)
    assert (2, "", True) == (ended.code, ended.out, "usage:" in ended.err)


def test_validate_accepts_a_good_document(command: Command, document: Path) -> None:
    """0, with mode, version and every host with its mirrors."""
    ended = command("validate", document)
    assert (0, "") == (ended.code, ended.err.partition("  warning: version is not the digest")[0])
    assert ended.out.splitlines() == [
        f"{document}: valid",
        "  mode Direct, version v1",
        "  r0.test: https://v1.test:5000",
        "  r1.test: https://v1.test:5000",
    ]


@pytest.mark.parametrize("key", ["data", "stringData"])
def test_validate_takes_a_secrets_manifest(command: Command, tmp_path: Path, key: str) -> None:
    """What `kubectl get secret -o yaml` prints can be checked as it is."""
    config = configs.simple().decode()
    value = config if key == "stringData" else base64.b64encode(config.encode()).decode()
    path = tmp_path / "secret.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Secret", key: {"config": value}}))
    assert command("validate", path).code == 0


def test_validate_refuses_with_every_reason(command: Command, tmp_path: Path) -> None:
    """1, and each problem on a line of its own with the place of its field."""
    path = tmp_path / "bad.yaml"
    bad = configs.mirror("m.test", ca="none", password=configs.CANARY, rewrites=[{"from": "(?=x)", "to": ""}])
    path.write_bytes(configs.config({"a.test": [bad], "b/c": []}, mode=""))
    ended = command("validate", path)
    assert (1, "") == (ended.code, ended.err)
    places = [line.partition(": ")[0].strip() for line in ended.out.splitlines()]
    assert places == [
        str(path),
        "mode",
        'hosts["a.test"].mirrors[0].ca',
        'hosts["a.test"].mirrors[0].rewrites[0].from',
        'hosts["b/c"]',
        'hosts["b/c"].mirrors',
    ]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"- a", b"a: &x 1", b"a: b: c", b"\0"])
def test_validate_survives_what_is_no_document(command: Command, tmp_path: Path, content: bytes) -> None:
    """1 and a sentence, whatever the bytes are."""
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    ended = command("validate", path)
    assert (1, f"{path}: refused", 2) == (ended.code, ended.out.splitlines()[0], len(ended.out.splitlines()))


def test_validate_checks_for_a_containerd_when_asked(command: Command, tmp_path: Path) -> None:
    """A rewrite is valid in itself, and refused for stock containerd."""
    path = tmp_path / "desired.yaml"
    path.write_bytes(configs.config({"a.test": [configs.mirror("m.test", rewrites=[{"from": "^x", "to": "y"}])]}))
    assert command("validate", path).code == 0
    assert command("validate", path, "--flavour", "deckhouse").code == 0
    ended = command("validate", path, "--flavour", "stock")
    assert (1, True) == (ended.code, "valid, but not for this containerd" in ended.out)


@pytest.mark.parametrize("name", ["validate", "render"])
@pytest.mark.parametrize("kind", ["missing", "directory", "no-directory"])
def test_nothing_to_work_on_is_2(command: Command, tmp_path: Path, name: str, kind: str) -> None:
    """A file that cannot be read is trouble, not a refused config; the message names it."""
    path = {"missing": tmp_path / "none", "directory": tmp_path, "no-directory": tmp_path / "none/file"}[kind]
    ended = command(name, path, *(("--out", tmp_path / "out") if name == "render" else ()))
    assert (2, "", True) == (ended.code, ended.out, str(path) in ended.err)
    assert not (tmp_path / "out").exists()


def test_render_writes_the_tree(command: Command, document: Path, tmp_path: Path) -> None:
    """The files of registry.d with their modes below a new directory, each named on stdout."""
    out = tmp_path / "new" / "out"
    ended = command("render", document, "--out", out, "--flavour", "deckhouse")
    assert ended.code == 0
    names = [
        f"{host}/{file}" for host in ("r0.test", "r1.test") for file in ("https-v1.test:5000-ca.crt", "hosts.toml")
    ]
    assert ended.out.splitlines() == [str(out / name) for name in names]
    host = folders.read(out / "r0.test")
    assert isinstance(host, Folder)
    assert (0o700, ["hosts.toml", "https-v1.test:5000-ca.crt"]) == (host.mode, sorted(host.entries))
    assert sorted(path.name for path in out.iterdir()) == ["r0.test", "r1.test"]


def test_render_refuses_a_directory_that_is_not_empty(command: Command, document: Path, tmp_path: Path) -> None:
    """Nothing is overwritten by a preview."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    ended = command("render", document, "--out", tmp_path / "out")
    assert (2, True) == (ended.code, "is not empty" in ended.err)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_render_takes_an_empty_directory(command: Command, document: Path, tmp_path: Path) -> None:
    """An empty directory is as good as none."""
    (tmp_path / "out").mkdir()
    assert command("render", document, "--out", tmp_path / "out").code == 0


def test_render_into_a_file_fails(command: Command, document: Path, tmp_path: Path) -> None:
    """1, with the path in the message."""
    (tmp_path / "out").write_text("")
    ended = command("render", document, "--out", tmp_path / "out")
    assert (1, True) == (ended.code, str(tmp_path / "out") in ended.err)


def test_render_of_a_refused_document_writes_nothing(command: Command, tmp_path: Path) -> None:
    """Not even the directory is made."""
    (tmp_path / "bad.yaml").write_bytes(configs.config({}))
    assert command("render", tmp_path / "bad.yaml", "--out", tmp_path / "out").code == 1
    assert not (tmp_path / "out").exists()


def test_render_takes_the_registry_dir_into_the_paths(command: Command, document: Path, tmp_path: Path) -> None:
    """CA paths in hosts.toml begin with the directory as the node sees it."""
    command("render", document, "--out", tmp_path / "out", "--registry-dir", "/etc/other/certs.d")
    toml = (tmp_path / "out/r0.test/hosts.toml").read_text()
    assert '"/etc/other/certs.d/r0.test/https-v1.test:5000-ca.crt"' in toml


def test_the_real_command_behaves_the_same(document: Path) -> None:
    """Through `python -m agent`: code, stdout, and an early end of the reader is no failure."""
    code = [*COMMAND, "validate", str(document)]
    ended = subprocess.run(code, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert (0, f"{document}: valid") == (ended.returncode, ended.stdout.splitlines()[0])
    piped = ["sh", "-c", f"{' '.join(COMMAND)} run --help | head -n 1"]
    ended = subprocess.run(piped, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert (0, "") == (ended.returncode, ended.stderr)
