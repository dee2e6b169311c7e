"""Who may do what, and the files that clients find their way with: kubeconfigs and service account volumes."""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from tests.apidouble import refusal
from tests.apidouble.resources import RESOURCES, Call


class Rule(NamedTuple):
    """What is allowed; no name or namespace means any. `resource` is ``nodes`` or ``nodes/status``."""

    verb: str
    resource: str
    name: str | None = None
    namespace: str | None = None


def check(call: Call, user: str, rules: Iterable[Rule] | None) -> None:
    """Raise Refused unless a rule allows the call; None allows everything."""
    if rules is None:
        return
    for rule in rules:
        scope = rule.name in {None, call.name} and rule.namespace in {None, call.namespace}
        if (rule.verb, rule.resource) == (call.verb, call.target) and scope:
            return
    raise refusal.forbidden(
        user,
        call.verb,
        RESOURCES[call.resource],
        name=call.name,
        namespace=call.namespace,
        subresource=call.subresource,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a kubeconfig identifies its user with."""

    token: str = ""
    token_file: Path | None = None
    certificate: trustme.LeafCert | None = None


def kubeconfig(path: Path, url: str, *, ca: bytes | None, credentials: Credentials, is_inline: bool) -> dict[str, Any]:
    """Return a kubeconfig; what is not inline is written beside it, and named relative to it."""

    def pem(field: str, content: bytes) -> dict[str, str]:
        if is_inline:
            return {f"{field}-data": base64.b64encode(content).decode()}
        beside = path.with_name(f"{path.name}.{field}.pem")
        beside.write_bytes(content)
        return {field: beside.name}

    cluster: dict[str, str] = {"server": url}
    if ca is not None:
        cluster |= pem("certificate-authority", ca)
    user: dict[str, str] = {}
    if credentials.token:
        user["token"] = credentials.token
    if credentials.token_file is not None:
        user["tokenFile"] = str(credentials.token_file)
    if credentials.certificate is not None:
        chain = b"".join(part.bytes() for part in credentials.certificate.cert_chain_pems)
        user |= pem("client-certificate", chain) | pem("client-key", credentials.certificate.private_key_pem.bytes())
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "double", "cluster": cluster}],
        "users": [{"name": "double", "user": user}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        "current-context": "double",
    }


def write_kubeconfig(path: Path, content: dict[str, Any]) -> None:
    """Write a kubeconfig; JSON is YAML."""
    path.write_text(json.dumps(content, indent=1))
    path.chmod(0o600)


def write_service_account(folder: Path, files: dict[str, bytes]) -> None:
    """Write files as the kubelet projects a volume: links through ``..data``, which a rename swaps."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "..data"
    before = data.resolve() if data.is_symlink() else None
    version = Path(tempfile.mkdtemp(prefix="..2026_", dir=folder))
    version.chmod(0o755)
    for name, content in files.items():
        (version / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    swap = folder / "..data_tmp"
    swap.symlink_to(version.name)
    os.replace(swap, data)
    if before is not None:
        shutil.rmtree(before)
