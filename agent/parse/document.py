"""The way in: bytes of the desired config to `DesiredConfig`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from agent.errors import ConfigInvalid, Problem
from agent.model import (
    DEFAULT_CAPABILITIES,
    BasicAuth,
    Capability,
    ClientCertificate,
    DesiredConfig,
    Header,
    Mirror,
    Notice,
    RegistryHost,
    Rewrite,
    Scheme,
    Secret,
)
from agent.parse import rules, version, wire, yaml_document

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_NOTICES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A config that was accepted, and what is worth a warning about it."""

    config: DesiredConfig
    notices: tuple[Notice, ...]


def parse(raw: bytes) -> Parsed:
    """Validate the document and return it as a value, or raise ConfigInvalid with every problem.

    A document with an `agent` block is accepted with problems, as one that another agent follows.

    `raw` is the content of the Secret's key `config` (decoded), at most 1 MiB of YAML.
    """
    loaded = yaml_document.load(raw, max_bytes=MAX_DOCUMENT_BYTES)
    try:
        return _parsed(wire.read(loaded))
    except ConfigInvalid as err:
        if not _has_agent_block(loaded):
            raise
        problems = err.problems
    return _other_agents(loaded, problems)


def _has_agent_block(loaded: Any) -> bool:
    return isinstance(loaded, dict) and loaded.get("agent") is not None


def _other_agents(loaded: dict[str, Any], problems: tuple[Problem, ...]) -> Parsed:
    """Stand down for an agent block whatever else is wrong: what it is for is not ours to judge."""
    mode, version = (text if isinstance(text := loaded.get(key), str) else "" for key in ("mode", "version"))
    config = DesiredConfig(mode=mode, version=version, digest="", images_base="", hosts=(), other_agent=True)
    shown = problems[:MAX_NOTICES]
    return Parsed(config=config, notices=tuple(Notice(code="ConfigInvalid", message=str(rule)) for rule in shown))


def _parsed(document: wire.Document) -> Parsed:
    problems = rules.problems(document)
    if problems:
        raise ConfigInvalid(problems)
    digest = version.digest(document)
    return Parsed(config=_config(document, digest), notices=_notices(document, digest))


def _notices(document: wire.Document, digest: str) -> tuple[Notice, ...]:
    unknown = wire.unknown_fields(document)
    notices = [
        Notice(code="UnknownField", message=f"{name} is not known to this version of the agent and is ignored")
        for name in unknown[:MAX_NOTICES]
    ]
    if len(unknown) > MAX_NOTICES:
        message = f"{len(unknown) - MAX_NOTICES} more fields are not known and are ignored"
        notices.append(Notice(code="UnknownField", message=message))
    if document.version != digest:
        message = f"version is not the digest of the document ({digest}): it was edited by hand or damaged"
        notices.append(Notice(code="VersionMismatch", message=message))
    return tuple(notices)


def _config(document: wire.Document, digest: str) -> DesiredConfig:
    return DesiredConfig(
        mode=document.mode,
        version=document.version,
        digest=digest,
        images_base=document.images_base,
        hosts=tuple(_host(name, document.hosts[name]) for name in sorted(document.hosts)),
        proxy_endpoints=tuple(document.proxy_endpoints or ()),
        other_agent=document.agent is not None,
    )


def _host(name: str, host: wire.Host) -> RegistryHost:
    mirrors = tuple(_mirror(mirror) for mirror in host.mirrors)
    return RegistryHost(name=name, mirrors=mirrors, server=host.server, fallback=host.fallback)


def _mirror(mirror: wire.Mirror) -> Mirror:
    client = mirror.client
    return Mirror(
        host=mirror.host,
        scheme=Scheme(mirror.scheme),
        ca=mirror.ca or None,
        auth=_auth(mirror.auth or wire.Auth()),
        rewrites=tuple(Rewrite(pattern=rule.pattern, replacement=rule.replacement) for rule in mirror.rewrites or ()),
        capabilities=tuple(map(Capability, mirror.capabilities or ())) or DEFAULT_CAPABILITIES,
        skip_verify=mirror.skip_verify,
        override_path=mirror.override_path,
        client=ClientCertificate(certificate=client.cert, key=Secret(client.key)) if client else None,
        headers=_headers(mirror.headers or {}),
        dial_timeout=mirror.dial_timeout,
    )


def _auth(auth: wire.Auth) -> BasicAuth | None:
    if auth.username:
        encoded = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        return BasicAuth(username=auth.username, encoded=Secret(encoded))
    if auth.auth:
        username = (rules.decode_auth(auth.auth) or "").partition(":")[0]
        return BasicAuth(username=username, encoded=Secret(auth.auth))
    return None


def _headers(headers: dict[str, str | list[str]]) -> tuple[Header, ...]:
    return tuple(
        Header(
            # containerd sends a lower-case key as a second header line (containerd.md, credentials).
            name="Authorization" if name.lower() == "authorization" else name,
            values=tuple(map(Secret, (values,) if isinstance(values, str) else values)),
        )
        for name, values in headers.items()
    )
