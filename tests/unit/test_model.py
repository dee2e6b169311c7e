"""The values: secrets that do not show, URLs that containerd can read."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from agent.model import BasicAuth, ClientCertificate, Header, Mirror, Scheme, Secret


@pytest.mark.parametrize(
    ("host", "scheme", "expected"),
    [
        ("a", Scheme.HTTPS, "https://a"),
        ("a:5001", Scheme.HTTP, "http://a:5001"),
        ("10.0.0.1:5001", Scheme.HTTPS, "https://10.0.0.1:5001"),
        ("fd00::1", Scheme.HTTPS, "https://[fd00::1]"),
        ("fd00::1:5001", Scheme.HTTPS, "https://[fd00::1:5001]"),
        ("[fd00::1]:5001", Scheme.HTTPS, "https://[fd00::1]:5001"),
        ("::", Scheme.HTTP, "http://[::]"),
    ],
)
def test_a_mirrors_url_is_one_that_go_can_parse(host: str, scheme: Scheme, expected: str) -> None:
    """A bare IPv6 address gets its brackets, everything else stays."""
    assert expected == Mirror(host=host, scheme=scheme).url


def test_a_secret_does_not_show_in_any_string() -> None:
    """str, repr, format, % and the repr of what holds it."""
    secret = Secret("c4nary")
    holders = (
        secret,
        BasicAuth(username="u", encoded=secret),
        ClientCertificate(certificate="c", key=secret),
        Header(name="X", values=(secret,)),
        Mirror(host="a", scheme=Scheme.HTTP, auth=BasicAuth(username="u", encoded=secret)),
    )
    shown = " ".join([*map(repr, holders), *map(str, holders), f"{secret}", format(secret)])
    assert "c4nary" not in shown
    assert "Secret(***)" in shown


def test_a_secret_is_revealed_on_request() -> None:
    """To the one place that writes it."""
    assert "c4nary" == Secret("c4nary").reveal()


def test_secrets_compare_by_value() -> None:
    """A changed password is a changed config."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert 1 == len({Secret("a"), Secret("a")})


def test_a_secret_survives_copying() -> None:
    """Values travel between threads and processes as they are."""
    assert Secret("a") == copy.deepcopy(Secret("a"))
    assert "a" == pickle.loads(pickle.dumps(Secret("a"))).reveal()


def test_values_cannot_be_changed() -> None:
    """Frozen: nobody changes a config under a running pass."""
    mirror = Mirror(host="a", scheme=Scheme.HTTP)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mirror.host = "b"  # type: ignore[misc]
