"""Whole trees, byte for byte. After a wanted change: `python -m tests.golden.regenerate`, review the diff."""

from __future__ import annotations

import tomllib

import pytest

from tests.golden import cases

#: The Direct sample of the contract, section 2, "hosts.toml", word for word.
_CONTRACT_DIRECT = """\
[host]
  [host."https://nexus.example.com:8443"]
    capabilities = ["pull", "resolve"]
    ca = ["/etc/containerd/registry.d/registry.d8-system.svc:5001/https-nexus.example.com:8443-ca.crt"]
    [host."https://nexus.example.com:8443".auth]
      auth = "cm9ib3Q6czNjcmV0"
    [[host."https://nexus.example.com:8443".rewrite]]
      regex = "^system/deckhouse"
      replace = "repo/deckhouse/ee"
"""


@pytest.mark.parametrize("case", cases.CASES)
def test_a_secret_becomes_the_reviewed_tree(case: str) -> None:
    """Bytes, modes, order of writing, notices, or the words of a refusal."""
    expected, actual = cases.stored(case), cases.run(case)
    assert expected.expected == actual.expected
    assert expected.files == actual.files


def test_the_cases_are_all_there() -> None:
    """An empty glob would prove nothing."""
    expected = {
        "direct",
        "direct-direct",
        "direct-on-stock",
        "extensions",
        "extensions-on-old-containerd",
        "ipv6",
        "k3s",
        "proxy-placeholder",
        "refused",
        "transition",
        "unmanaged",
        "unmanaged-on-stock",
        "wildcard-without-fallback",
    }
    assert expected == set(cases.CASES)


@pytest.mark.parametrize("case", cases.CASES)
def test_modes_are_said_of_every_file(case: str) -> None:
    """Git keeps no 0600, so the modes stand in expected.toml."""
    stored = cases.stored(case)
    modes = tomllib.loads(stored.expected).get("modes", {})
    assert set(stored.files) == set(modes)
    assert all(mode == ("0644" if name.endswith(".crt") else "0600") for name, mode in modes.items())


def test_direct_is_what_deckhouse_itself_writes() -> None:
    """The contract's own rendering, but for the comment that says whose file it is."""
    text = cases.stored("direct").files["registry.d8-system.svc:5001/hosts.toml"].decode()
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    assert _CONTRACT_DIRECT == "".join(lines)
