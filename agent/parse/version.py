"""The digest that Deckhouse's controller publishes as `version`.

sha256 over Go's `encoding/json` form of the document with `version` empty (contract, section 1,
"version"; reproduced there against the producer). Only the producer's own fields count.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from agent.parse import wire

#: Go's encoder escapes these for HTML and JavaScript; Python's does not.
_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def digest(document: wire.Document) -> str:
    """Return the 64 hex characters that `version` has when nobody changed the document."""
    text = json.dumps(_go_order(document), separators=(",", ":"), ensure_ascii=False)
    for character, escape in _GO_ESCAPES.items():
        text = text.replace(character, escape)
    return hashlib.sha256(text.encode()).hexdigest()


def _go_order(document: wire.Document) -> dict[str, Any]:
    fields: dict[str, Any] = {"mode": document.mode, "version": "", "imagesBase": document.images_base}
    if document.proxy_endpoints:
        fields["proxyEndpoints"] = document.proxy_endpoints
    fields["hosts"] = {
        name: {"mirrors": [_mirror(mirror) for mirror in document.hosts[name].mirrors]}
        for name in sorted(document.hosts, key=str.encode)
    }
    return fields


def _mirror(mirror: wire.Mirror) -> dict[str, Any]:
    auth = mirror.auth or wire.Auth()
    fields: dict[str, Any] = {"host": mirror.host, "scheme": mirror.scheme}
    if mirror.ca:
        fields["ca"] = mirror.ca
    fields["auth"] = {"username": auth.username, "password": auth.password, "auth": auth.auth}
    if mirror.rewrites:
        fields["rewrites"] = [{"from": rule.pattern, "to": rule.replacement} for rule in mirror.rewrites]
    return fields
