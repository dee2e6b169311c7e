"""Desired configs as bytes. JSON is YAML, so that no second YAML writer is needed."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import trustme

#: Must never be seen outside hosts.toml.
CANARY = "canary-hunter2-never-seen"

Host = dict[str, Any]


@functools.cache
def ca(number: int = 1) -> str:
    """Return a real CA certificate in PEM, another one for each number."""
    return trustme.CA(organization_name=f"CA {number}").cert_pem.bytes().decode()


def mirror(host: str, *, ca: str | None = None, password: str | None = None, **more: Any) -> dict[str, Any]:
    """Return one mirror, with credentials when a password is given."""
    found: dict[str, Any] = {"host": host, "scheme": "https", **more}
    if ca:
        found["ca"] = ca
    if password:
        found["auth"] = {"username": "robot", "password": password, "auth": ""}
    return found


def config(hosts: Mapping[str, list[dict[str, Any]]], *, version: str = "v1", **more: Any) -> bytes:
    """Return a document with these mirrors for each host."""
    document = {
        "mode": "Direct",
        "version": version,
        "imagesBase": "registry.d8-system.svc:5001/system/deckhouse",
        "hosts": {name: {"mirrors": mirrors} for name, mirrors in hosts.items()},
        **more,
    }
    return json.dumps(document, indent=1).encode()


def simple(version: str = "v1", *, hosts: int = 1, with_ca: bool = True, password: str = CANARY) -> bytes:
    """Return a document with `hosts` hosts ``r0.test``, ``r1.test``, ...; the version is in the mirrors' name."""
    mirrors = {
        f"r{index}.test": [mirror(f"{version}.test:5000", ca=ca() if with_ca else None, password=password)]
        for index in range(hosts)
    }
    return config(mirrors, version=version)
