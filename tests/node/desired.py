"""The document that a cluster would publish, for the registries of a test."""

import hashlib
import json
from dataclasses import dataclass

import yaml

from tests.node.accounts import PULLER, Account
from tests.node.registry import Registry

IMAGES_BASE = "registry.d8-system.svc:5001/system/deckhouse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A desired config and the version that it carries."""

    version: str
    text: str


def document(hosts: dict[str, dict[str, object]], *, mode: str = "Direct") -> Document:
    """Return the document for host entries, its version a digest of all that it says."""
    fields = json.dumps({"mode": mode, "imagesBase": IMAGES_BASE, "hosts": hosts})
    version = hashlib.sha256(fields.encode()).hexdigest()
    # Parsed anew, because YAML would write an entry that stands twice as anchor and alias.
    return Document(version=version, text=yaml.safe_dump({**json.loads(fields), "version": version}))


def host(*mirrors: dict[str, object], **extensions: object) -> dict[str, object]:
    """Return one entry of `hosts`: its mirrors in try order, and extensions such as `fallback`."""
    return {"mirrors": list(mirrors), **extensions}


def mirror(registry: Registry, account: Account | None = PULLER, **fields: object) -> dict[str, object]:
    """Return a mirror entry which trusts the registry's CA; `fields` add to it or replace."""
    auth = {"username": "", "password": "", "auth": ""}
    if account is not None:
        auth |= {"username": account.username, "password": account.password}
    return {
        "host": registry.address,
        "scheme": "https",
        "ca": registry.ca,
        "auth": auth,
        **fields,
    }
