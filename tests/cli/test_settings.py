"""Settings: who wins, and what is said about a wrong one."""

from pathlib import Path, PurePosixPath

import pytest

from agent import settings
from agent.errors import SettingsInvalid
from agent.outcome import Mode
from agent.settings import Settings
from tests.cli.conftest import Command


def load(tmp_path: Path, *, flag: str = "", variable: str = "", file: str = "") -> Settings:
    """Load settings where `retry_max_s` is given in any of the three places."""
    path = tmp_path / "etc/registry-agent/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"retry_max_s = {file}\n" if file else "")
    flags = {"root": str(tmp_path)} | ({"retry_max_s": flag} if flag else {})
    return settings.load(flags, {"REGISTRY_AGENT_RETRY_MAX_S": variable} if variable else {})


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """One order, from the nearest to the operator's hand to the farthest."""
    found = [
        load(tmp_path),
        load(tmp_path, file="11"),
        load(tmp_path, file="11", variable="12"),
        load(tmp_path, file="11", variable="12", flag="13"),
    ]
    assert [60, 11, 12, 13] == [each.retry_max_s for each in found]


def test_every_setting_can_come_from_the_environment(tmp_path: Path) -> None:
    """The variable of each option is the one that help names."""
    values = {
        "mode": "observe",
        "source_file": "/s",
        "registry_dir": "/r",
        "state_dir": "/st",
        "run_dir": "/ru",
        "health_listen": "[::1]:80",
        "flavour": "k3s",
        "containerd_version": "1.7.24",
        "node_ip": "fd00::1",
        "resync_interval_s": "5",
        "retry_min_s": "6",
        "retry_max_s": "7",
        "absent_settle_s": "8",
        "pass_timeout_s": "900",
        "log_level": "debug",
    }
    environment = {option.variable: values[option.name] for option in settings.options() if option.name in values}
    environment["REGISTRY_AGENT_ROOT"] = str(tmp_path)
    loaded = settings.load({}, environment)
    assert values | {"root": str(tmp_path)} == {
        name: str(getattr(value, "value", f"{value:g}" if isinstance(value, float) else value))
        for name, value in loaded.model_dump().items()
        if name in values or name == "root"
    }


def test_the_default_file_lies_below_the_root(tmp_path: Path) -> None:
    """With --root, the settings file of that root counts, not the machine's."""
    assert load(tmp_path, file="42").retry_max_s == 42


def test_a_named_file_is_read_instead(tmp_path: Path) -> None:
    """--config reads another file than the one below the root."""
    (tmp_path / "mine.toml").write_text('mode = "observe"\n')
    assert settings.load({}, {}, config=tmp_path / "mine.toml").mode is Mode.OBSERVE


def test_paths_hang_off_the_root(tmp_path: Path) -> None:
    """Every path is one of the node's."""
    loaded = Settings(root=tmp_path)
    assert loaded.on_node(PurePosixPath("/etc/x")) == tmp_path / "etc/x"


WRONG = [
    ("mode", "delete", "manage"),
    ("source_file", "relative/path", "absolute path"),
    ("registry_dir", "/etc/../up", "without '..'"),
    ("registry_dir", "/", "absolute path"),
    ("health_listen", "localhost:80", "IP:port"),
    ("health_listen", "127.0.0.1:70000", "IP:port"),
    ("health_listen", "127.0.0.1", "IP:port"),
    ("flavour", "docker", "deckhouse"),
    ("containerd_version", "new", "containerd version"),
    ("node_ip", "node-1", "IP address"),
    ("resync_interval_s", "0", "greater than"),
    ("resync_interval_s", "often", "number"),
    ("retry_min_s", "nan", "less than or equal"),
    ("retry_max_s", "1e9", "less than or equal"),
    ("log_level", "loud", "debug"),
]


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_a_wrong_setting_is_named(command: Command, name: str, value: str, rule: str) -> None:
    """2, with the setting and its rule in one line, and where to read more."""
    ended = command("run", f"--{name.replace('_', '-')}", value)
    assert (2, "") == (ended.code, ended.out)
    first, second = ended.err.splitlines()
    assert first.startswith(f"registry-agent: error: settings refused: {name}: ")
    assert rule in first
    assert second.startswith("registry-agent: hint: ")


def test_every_wrong_setting_is_named_at_once(tmp_path: Path) -> None:
    """An operator does not have to find them one by one."""
    with pytest.raises(SettingsInvalid, match=r"retry_max_s.*; node_ip|node_ip.*; retry_max_s"):
        settings.load({"root": str(tmp_path), "retry_max_s": "x", "node_ip": "y"}, {})


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """The rule between two settings names both."""
    with pytest.raises(SettingsInvalid, match="retry_min_s must not be above retry_max_s"):
        settings.load({"root": str(tmp_path), "retry_min_s": "9", "retry_max_s": "8"}, {})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"retry_max_s = ", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        (b"retry = 5", "retry is not a setting"),
        (b"retry_max_s = []", "retry_max_s"),
        (b"root = 5", "root"),
        (b'root = "/host"', "root"),  # ignoring it in silence would let the agent work on the wrong tree
        (b"registry_dir = 5", "registry_dir"),
        (b'registry_dir = "/a\\u0000b"', "registry_dir"),
        (b"mode = true", "mode"),
        (b"[mode]\na = 1", "mode"),
    ],
)
def test_a_wrong_settings_file_is_named(command: Command, tmp_path: Path, content: bytes, words: str) -> None:
    """2 and a sentence with the file or the setting, whatever the file holds."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    ended = command("diff", "--config", path)
    assert (2, True) == (ended.code, words in ended.err)


def test_a_settings_file_that_is_named_must_exist(command: Command, tmp_path: Path) -> None:
    """A typing error in --config is not silently the default."""
    for path in (tmp_path / "none.toml", tmp_path):
        ended = command("diff", "--config", path)
        assert (2, True) == (ended.code, str(path) in ended.err)


def test_a_wrong_variable_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings from the environment are checked like flags."""
    monkeypatch.setenv("REGISTRY_AGENT_MODE", "x")
    ended = command("diff")
    assert (2, True) == (ended.code, "settings refused: mode: " in ended.err)
