"""What several legacy tables say together, and what they say that nobody reads."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from agent.legacy import registry_tables
from agent.legacy_settings import Gathered, Source, gather
from tests.support.conversions import SCHEMA_2, toml

A = PurePosixPath("/etc/containerd/config.toml")
B = PurePosixPath("/etc/containerd/conf.d/b.toml")


def _gather(*texts: str) -> Gathered:
    paths = (A, B)
    return gather(
        tuple(
            Source(path=path, tables=registry_tables(text.encode())) for path, text in zip(paths, texts, strict=False)
        )
    )


def _values(gathered: Gathered) -> dict[str, Any]:
    return {"/".join(place): setting.value for place, setting in gathered.settings.items() if setting.value is not None}


REGISTRY = {
    "config_path": "/x",
    "mirrors": {"docker.io": {"endpoint": ["https://m"]}},
    "configs": {"m": {"auth": {"username": "u", "password": "p"}, "tls": {"insecure_skip_verify": True}}},
    "auths": {"https://h": {"auth": "dTpw"}},
    "headers": {"X-A": ["1"]},
}
VALUES = {
    "config_path": "/x",
    "mirrors/docker.io/endpoint": ["https://m"],
    "configs/m/auth/username": "u",
    "configs/m/auth/password": "p",
    "configs/m/tls/insecure_skip_verify": True,
    "auths/https://h/auth": "dTpw",
    "headers/X-A": ["1"],
}


@pytest.mark.parametrize("schema", ["plugins.cri.registry", SCHEMA_2, 'plugins."io.containerd.cri.v1.images".registry'])
def test_every_schema_is_read(schema: str) -> None:
    """The section is the same under each of its three names."""
    gathered = _gather(toml(REGISTRY, schema))
    assert (VALUES, (), (A,)) == (_values(gathered), gathered.caveats, gathered.sources)


def test_containerds_own_words_are_read_in_any_case() -> None:
    """Names are not its own: they keep their case."""
    text = (
        '[PLUGINS.cri.Registry.MIRRORS."A.test"]\nENDPOINT = []\n[plugins.cri.registry.Configs."A".Tls]\nCA_FILE = "/c"'
    )
    assert {"mirrors/A.test/endpoint": [], "configs/A/tls/ca_file": "/c"} == _values(_gather(text))


def test_tables_of_all_files_are_merged_and_the_later_value_counts() -> None:
    """With a caveat, unless it is the same value."""
    first = {"mirrors": {"a": {"endpoint": ["https://1"]}, "b": {"endpoint": ["https://2"]}}}
    second = {"mirrors": {"a": {"endpoint": ["https://3"]}, "b": {"endpoint": ["https://2"]}, "c": {}}}
    gathered = _gather(toml(first), toml(second))
    assert {"mirrors/a/endpoint": ["https://3"], "mirrors/b/endpoint": ["https://2"]} == _values(gathered)
    assert ("a", "b", "c") == gathered.names("mirrors")
    (caveat,) = gathered.caveats
    assert f"{A}: {SCHEMA_2}.mirrors.a.endpoint is also set in {B}, which counts" == str(caveat)


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ({"mirrors": {"a": {"endpoint": "https://SECRET"}}}, "mirrors.a.endpoint"),
        ({"mirrors": {"a": {"endpoint": ["https://m", 1]}}}, "mirrors.a.endpoint"),
        ({"mirrors": {"a": ["SECRET"]}}, "mirrors.a"),
        ({"mirrors": "SECRET"}, "mirrors"),
        ({"configs": {"a": {"auth": {"password": 7}}}}, "configs.a.auth.password"),
        ({"configs": {"a": {"auth": "SECRET"}}}, "configs.a.auth"),
        ({"configs": {"a": {"tls": {"insecure_skip_verify": "true"}}}}, "configs.a.tls.insecure_skip_verify"),
        ({"headers": {"X": "SECRET"}}, "headers.X"),
    ],
)
def test_what_containerd_refuses_is_named(registry: dict[str, Any], key: str) -> None:
    """By file and key, without the value."""
    (caveat,) = _gather(toml(registry)).caveats
    assert f"{A}: {SCHEMA_2}.{key} is of a type that containerd refuses; not converted" == str(caveat)


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ({"mirrors": {"a": {"rewrite": {"SECRET": "x"}}}}, "mirrors.a.rewrite"),
        ({"configs": {"a": {"auth": {"token": "SECRET"}}}}, "configs.a.auth.token"),
        ({"configs": {"a": {"oauth": {}}}}, "configs.a.oauth"),
        ({"mirror": {}}, "mirror"),
    ],
)
def test_what_nobody_knows_is_named(registry: dict[str, Any], key: str) -> None:
    """A misspelled key has no effect in containerd either; a person may have meant something by it."""
    (caveat,) = _gather(toml(registry)).caveats
    assert f"{A}: {SCHEMA_2}.{key} is not known; not converted" == str(caveat)


def test_a_table_that_is_none_is_named() -> None:
    """As detection sees it: presence counts."""
    (caveat,) = _gather('plugins.cri.registry = "SECRET"').caveats
    assert f"{A}: plugins.cri.registry is of a type that containerd refuses; not converted" == str(caveat)


def test_the_certificate_files_are_those_that_tls_names() -> None:
    """Each once; relative to /, where systemd starts containerd; hosts and headers may be called anything."""
    tls = {"ca_file": "/a.crt", "cert_file": "certs/b.crt", "key_file": ""}
    registry = {
        "configs": {"h": {"tls": tls}, "ca_file": {"tls": tls}, "i": {}},
        "headers": {"x_file": ["y"]},
        "auths": {"ca_file": {"auth": "x"}},
    }
    assert (PurePosixPath("/a.crt"), PurePosixPath("/certs/b.crt")) == _gather(toml(registry)).certificate_files


def test_values_are_hidden() -> None:
    """In whatever is printed of it."""
    registry = {"configs": {"h": {"auth": {"password": "SECRET"}}}, "headers": {"A": ["SECRET"]}}
    gathered = _gather(toml(registry), toml({**registry, "headers": {"A": ["SECRET2"]}}))
    tables = registry_tables(toml(registry).encode())
    assert "SECRET" not in f"{gathered} {gathered.settings} {gathered.caveats} {gathered.caveats[0]} {tables}"
