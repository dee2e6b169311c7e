"""Legacy registry settings to registry hosts: what `mirrors` and `configs` do, for hosts.toml to say.

What containerd does with the legacy keys is in its pkg/cri/server/image_pull.go (registryHosts,
registryEndpoints, ParseAuth). What hosts.toml cannot say becomes a caveat with file and key, and
never with a value.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from agent import address
from agent.hosts_toml import Target
from agent.legacy_settings import Caveat, Gathered, Place, on_node
from agent.model import WILDCARD_HOST, BasicAuth, ClientCertificate, Header, Mirror, RegistryHost, Scheme, Secret
from agent.parse.certificates import CaChecker, key_pair_problem
from agent.parse.encoding import canonical_base64
from agent.runtime import DEEP_MERGE_SINCE, LEGACY_TLS_UNTIL, TOKEN_HEADER_SINCE, Flavour

#: The mirror of all registries that have none of their own.
ANY_REGISTRY = "*"

DOCKER_HUB = "docker.io"
#: Where containerd goes for docker.io, and the name that `configs` has for it.
DOCKER_HUB_SERVER = "registry-1.docker.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The registry hosts, sorted by name, and what is not in them."""

    hosts: tuple[RegistryHost, ...]
    caveats: tuple[Caveat, ...]


def convert(gathered: Gathered, files: Mapping[PurePosixPath, bytes], target: Target) -> Conversion:
    """Return hosts that are pulled from as before; `files` has the certificate files that could be read."""
    converter = _Converter(gathered, files, target)
    hosts = tuple(converter.hosts())
    return Conversion(hosts=hosts, caveats=(*gathered.caveats, *converter.caveats))


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A URL that containerd asks; `authority` is its host as `configs` names it."""

    scheme: str
    authority: str
    path: str = ""


class _Converter:
    """Looks at every setting once, and collects what is to be said about it."""

    def __init__(self, gathered: Gathered, files: Mapping[PurePosixPath, bytes], target: Target) -> None:
        self.caveats: list[Caveat] = []
        self._gathered = gathered
        self._files = files
        self._target = target
        self._certificates = CaChecker()
        self._note_surroundings()
        self._headers = tuple(self._all_headers())
        self._auths: dict[str, Place] = {_host_of(url): ("auths", url) for url in gathered.names("auths")}
        self._contacts = {host: self._contact(host) for host in (*self._auths, *gathered.names("configs"))}
        self._endpoints = {name: tuple(self._listed(name)) for name in gathered.names("mirrors")}

    def hosts(self) -> Iterator[RegistryHost]:
        """Yield a registry host for each mirror, and for each host that has settings of its own."""
        for name in sorted(dict.fromkeys((*self._mirrored(), *self._configured()))):
            yield self._host(name)

    def _mirrored(self) -> Iterator[str]:
        for name, endpoints in self._endpoints.items():
            if name != ANY_REGISTRY:
                yield from self._directory(name, ("mirrors", name))
            elif endpoints:
                yield WILDCARD_HOST
                # For a registry that is one of them, containerd appends nothing; for the others, the default does.
                listed = set(endpoints)
                unlike = (each.authority for each in listed if _itself(each.authority) not in listed)
                yield from (name for name in unlike if address.host_key_problem(name) is None)

    def _configured(self) -> Iterator[str]:
        asked = {endpoint.authority for endpoint in chain.from_iterable(self._endpoints.values())}
        for host in self._contacts:
            place = self._auth_place(host)[:2]
            if host != DOCKER_HUB:
                yield from self._directory(DOCKER_HUB if host == DOCKER_HUB_SERVER else host, place)
            elif host not in asked:
                self._note(place, f"has no effect, because containerd asks {DOCKER_HUB_SERVER}; not converted")

    def _directory(self, name: str, place: Place) -> Iterator[str]:
        problem = "is no registry" if name == WILDCARD_HOST else address.host_key_problem(name)
        if problem is None:
            yield name
        else:
            self._note(place, f"gets no directory, because its name {problem}")

    def _host(self, name: str) -> RegistryHost:
        """Return a registry with its endpoints; with itself in the end, when there are settings for that."""
        endpoints = self._endpoints.get(name, self._endpoints.get(ANY_REGISTRY, ()))
        if name == WILDCARD_HOST:
            return RegistryHost(name=name, mirrors=self._mirrors(endpoints))
        itself = _itself(name)
        is_listed = any(endpoint.authority == name for endpoint in endpoints)
        if not is_listed and (itself.authority in self._contacts or self._headers or not endpoints):
            endpoints = (*endpoints, itself)
        # containerd appends nothing to endpoints that have the registry among them.
        return RegistryHost(name=name, mirrors=self._mirrors(endpoints), fallback=not is_listed or itself in endpoints)

    def _mirrors(self, endpoints: tuple[_Endpoint, ...]) -> tuple[Mirror, ...]:
        return tuple(map(self._mirror, dict.fromkeys(endpoints)))

    def _mirror(self, endpoint: _Endpoint) -> Mirror:
        contact = self._contacts.get(endpoint.authority) or Mirror(host="", scheme=Scheme.HTTPS)
        if endpoint.scheme == Scheme.HTTP.value:
            contact = replace(contact, ca=None, client=None, skip_verify=False)
        has_credentials = contact.auth is not None or contact.identity_token is not None
        is_bracketed = endpoint.authority.endswith("]")
        return replace(
            contact,
            host=endpoint.authority[1:-1] if is_bracketed else endpoint.authority,
            scheme=Scheme(endpoint.scheme),
            path=endpoint.path,
            override_path=bool(endpoint.path),  # to `endpoint`, /v2 is added only where there is no path
            headers=tuple(each for each in self._headers if not (has_credentials and each.name == "Authorization")),
        )

    def _listed(self, name: str) -> Iterator[_Endpoint]:
        place = ("mirrors", name, "endpoint")
        for number, text in enumerate(self._gathered.value(place) or (), start=1):
            endpoint, remark = _parse(text)
            if remark:
                self._note(place, f"number {number} {remark}")
            if endpoint:
                yield endpoint

    def _contact(self, host: str) -> Mirror:
        """Return what containerd brings along to a host, wherever that is to be asked."""
        tls = ("configs", host, "tls")
        auth_place = self._auth_place(host)
        token = self._identity_token(auth_place)
        if tls in self._gathered.settings and self._target.containerd.is_known_from(LEGACY_TLS_UNTIL):
            self._note(tls, f"is not read by containerd {LEGACY_TLS_UNTIL} and newer, but is in hosts.toml")
        return Mirror(
            host="",
            scheme=Scheme.HTTPS,
            auth=None if token else self._basic_auth(auth_place),
            identity_token=token,
            ca=self._ca((*tls, "ca_file")),
            client=self._client(tls),
            skip_verify=bool(self._gathered.value((*tls, "insecure_skip_verify"))),
        )

    def _identity_token(self, place: Place) -> Secret | None:
        token = self._text((*place, "identitytoken"))
        if not token or self._text((*place, "username")):
            return None
        if not self._has_auth_table:
            self._note((*place, "identitytoken"), "cannot be said in hosts.toml; keep it, beside config_path")
        return Secret(token)

    def _basic_auth(self, place: Place) -> BasicAuth | None:
        """Return user name and password, else what `auth` is the base64 of."""
        username, password, encoded = (self._text((*place, word)) for word in ("username", "password", "auth"))
        pair = f"{username}:{password}".encode() if username else canonical_base64("".join(encoded.split())) or b""
        user, colon, secret = pair.partition(b":")
        if password and not username:
            self._note((*place, "password"), "has no username beside it, so containerd does not send it")
        if not user or not colon:
            if encoded:
                self._note((*place, "auth"), "is not base64 of user:password; not converted")
            return None
        if not self._has_auth_table and not self._target.containerd.is_known_from(TOKEN_HEADER_SINCE):
            text = f"becomes a header, which only containerd {TOKEN_HEADER_SINCE} and newer show to token servers"
            self._note(place, f"{text}: if the registry has one, keep it, beside config_path")
        again = base64.b64encode(user + colon + secret.strip(b"\0")).decode()
        return BasicAuth(username=user.decode(errors="replace"), encoded=Secret(again))

    @property
    def _has_auth_table(self) -> bool:
        return self._target.containerd.flavour is Flavour.DECKHOUSE

    def _auth_place(self, host: str) -> Place:
        """Return where credentials of a host stand: containerd replaces those in `configs` by those in `auths`."""
        return self._auths.get(host, ("configs", host, "auth"))

    def _ca(self, place: Place) -> str | None:
        pem = self._pem(place)
        problem = self._certificates.problem(pem) if pem is not None else None
        if problem:
            self._note(place, f"names a file that {problem}; not converted")
        return None if problem else pem

    def _client(self, tls: Place) -> ClientCertificate | None:
        certificate, key = self._pem((*tls, "cert_file")), self._pem((*tls, "key_file"))
        if certificate is None and key is None:
            return None
        problem = key_pair_problem(certificate, key) if certificate and key else "needs cert_file and key_file"
        if problem or not certificate or not key:
            self._note(tls, f"has no usable client certificate: {problem}; not converted")
            return None
        return ClientCertificate(certificate=certificate, key=Secret(key))

    def _pem(self, place: Place) -> str | None:
        name = self._text(place)
        raw = self._files.get(on_node(name)) if name else None
        if name and raw is None:
            self._note(place, "names a file that cannot be read; not converted")
        # Around PEM blocks there may be anything.
        return raw.decode(errors="replace") if raw is not None else None

    def _all_headers(self) -> Iterator[Header]:
        for name in self._gathered.names("headers"):
            place = ("headers", name)
            self._note(place, "was sent to every registry, and now to those that have a directory here")
            is_authorization = name.lower() == "authorization"  # containerd.md, credentials: the case matters
            values = tuple(map(Secret, self._gathered.value(place)))
            yield Header(name="Authorization" if is_authorization else name, values=values)

    def _text(self, place: Place) -> str:
        return self._gathered.value(place) or ""

    def _note(self, place: Place, text: str) -> None:
        self.caveats.append(self._gathered.caveat(place, text))

    def _note_surroundings(self) -> None:
        path = self._text(("config_path",))
        if path and PurePosixPath(path) != self._target.registry_dir:
            self._note(("config_path",), "names another directory; what stands there is not converted")
        # Deckhouse's build is fed by bashible, which merges drop-ins itself.
        is_merged = self._has_auth_table or self._target.containerd.is_known_from(DEEP_MERGE_SINCE)
        if len(self._gathered.sources) > 1 and not is_merged:
            text = (
                f"are merged from several files; before {DEEP_MERGE_SINCE}, containerd reads only those imported last"
            )
            caveat = Caveat(path=self._gathered.sources[-1], keys=("plugins",), text=text)
            self.caveats.append(caveat)


def _itself(name: str) -> _Endpoint:
    """Return where containerd goes for a registry in the end."""
    server = DOCKER_HUB_SERVER if name == DOCKER_HUB else name
    return _Endpoint(_default_scheme(server), server)


def _parse(text: str) -> tuple[_Endpoint | None, str]:
    """Return an endpoint as containerd takes it, and what is odd about it."""
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"any://{text}")
    except ValueError:
        return None, "is not a URL; not converted"
    authority = parts.netloc.rpartition("@")[2]
    scheme = parts.scheme if has_scheme else _default_scheme(authority)
    path = re.sub("/{2,}", "/", parts.path)
    problem = address.server_url_problem(f"{scheme}://{authority}{path}")
    if problem:
        return None, f"{problem}; not converted"
    remark = ""
    if "@" in parts.netloc or parts.query or parts.fragment:
        remark = "has more than scheme, host and path, which is all that containerd uses"
    if path == "/":
        remark = "ends in a slash, so containerd asks without /v2, which few registries answer; it still does"
    return _Endpoint(scheme, authority, path), remark


def _default_scheme(authority: str) -> str:
    """Return the scheme for a host that is named without one: loopback is asked in plain text."""
    host = authority if address.is_ip(authority) else re.sub(r":\d+$", "", authority).strip("[]")
    is_loopback = host == "localhost" or (address.is_ip(host) and ipaddress.ip_address(host).is_loopback)
    return Scheme.HTTP.value if is_loopback else Scheme.HTTPS.value


def _host_of(url: str) -> str:
    """Return the host that a key of `auths` is about."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2] if "://" in url else url
