"""Runs the exec plugin of a kubeconfig: a program that prints a credential for the API.

The contract is https://kubernetes.io/docs/reference/config-api/client-authentication.v1/. What the
program says on stderr, its arguments and its environment may be secrets: none is ever repeated. The
only module of this room that opens `subprocess`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.errors import CredentialsUnusable
from agent.kube.kubeconfig import Cluster, Fields, Plugin, shown
from agent.kube.tls import KeyPair, Pem
from agent.model import Secret

#: Plugins ask a cloud over the network; beyond this the cloud is not there.
TIMEOUT_S = 60.0
MAX_OUTPUT_BYTES = 1024 * 1024
#: A credential is not used in its last seconds: the request takes some time to arrive.
MARGIN = timedelta(seconds=10)

_CHUNK_BYTES = 64 * 1024
_KIND = "ExecCredential"
#: Go's zero time is what a program prints that fills in all fields; client-go takes it for none.
_NO_EXPIRY = {"", "0001-01-01T00:00:00Z"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a plugin gave; at least one of token and key pair is there."""

    origin: str
    token: Secret | None
    pair: KeyPair | None
    expires: datetime | None


class ExecPlugin:
    """Runs one plugin and keeps its credential until it expires or is refused. Not for several threads at once."""

    def __init__(
        self,
        plugin: Plugin,
        *,
        program: str,
        environment: Mapping[str, str],
        now: Callable[[], datetime],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`program` is a path, or a name to look up in PATH; `environment` is the agent's own."""
        self._plugin = plugin
        self._program = program
        self._environment = environment
        self._now = now
        self._timeout_s = timeout_s
        self._kept: Credential | None = None
        self._running: subprocess.Popen[bytes] | None = None
        self.origin = f"exec plugin {shown(plugin.command)}"

    def credential(self, cluster: Cluster, *, ca: Pem | None, is_refused: bool) -> Credential:
        """Return the credential, from a new run if the kept one is over; raises CredentialsUnusable."""
        if is_refused or self._kept is None or self._is_over(self._kept):
            self._kept = None
            output = self._output(self._variables(cluster, ca))
            self._kept = self._credential(output)
        return self._kept

    def close(self) -> None:
        """End a run that is under way, from another thread."""
        running = self._running
        if running is not None and running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    def _is_over(self, credential: Credential) -> bool:
        return credential.expires is not None and self._now() + MARGIN >= credential.expires

    def _variables(self, cluster: Cluster, ca: Pem | None) -> dict[str, str]:
        spec: dict[str, Any] = {"interactive": False}
        if self._plugin.is_given_cluster:
            spec["cluster"] = self._cluster(cluster, ca)
        info = {"kind": _KIND, "apiVersion": self._plugin.api_version, "spec": spec}
        return {**self._environment, **dict(self._plugin.environment), "KUBERNETES_EXEC_INFO": json.dumps(info)}

    def _cluster(self, cluster: Cluster, ca: Pem | None) -> dict[str, Any]:
        if not _is_json(cluster.exec_config):
            raise self._unusable("its configuration in the cluster's extensions holds a number or a date", "quote it")
        fields = {
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.is_insecure,
            "certificate-authority-data": base64.b64encode(ca.content).decode() if ca else "",
            "proxy-url": cluster.proxy_url,
            "config": cluster.exec_config,
        }
        return {key: value for key, value in fields.items() if value}

    def _output(self, variables: dict[str, str]) -> bytes:
        path = shutil.which(self._program, path=self._environment.get("PATH", os.defpath))
        if path is None:
            raise self._unusable("is not there, or may not be executed")
        try:
            process = subprocess.Popen(  # noqa: S603 -- the kubeconfig's owner says what to run
                [self._plugin.command, *self._plugin.args],
                executable=path,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as err:
            why = err.strerror or "the system refuses it"
        else:
            return self._result(process)
        raise self._unusable(f"cannot be started: {why}")

    def _result(self, process: subprocess.Popen[bytes]) -> bytes:
        """Return what the program prints; a program that does not end in time is ended with its children."""
        deadline = time.monotonic() + self._timeout_s
        self._running = process
        with process:
            try:
                return self._finished(process, deadline)
            finally:
                self._running = None
                if process.returncode is None:  # not waited for, so nobody else can have its number
                    os.killpg(process.pid, signal.SIGKILL)

    def _finished(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        output = self._read(process, deadline)
        # TimeoutExpired holds the arguments, so nothing may be raised while it is handled.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.returncode is None:
            raise self._late()
        if process.returncode < 0:
            raise self._unusable(f"was ended by signal {-process.returncode}")
        if process.returncode:
            raise self._unusable(f"failed with exit code {process.returncode}")
        return output

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        output = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
                if not chunk:
                    return bytes(output)
                output += chunk
                if len(output) > MAX_OUTPUT_BYTES:
                    raise self._unusable(f"prints more than {MAX_OUTPUT_BYTES} bytes")
        raise self._late()

    def _credential(self, output: bytes) -> Credential:
        printed = Fields(_json(output), origin=f"{self.origin}: output", remedy=self._remedy())
        if printed.text("kind") != _KIND:
            raise printed.wrong("kind", f"must be {_KIND}")
        if printed.text("apiVersion") != self._plugin.api_version:
            raise printed.wrong("apiVersion", f"must be {self._plugin.api_version}, as the kubeconfig has it")
        status = printed.map("status")
        token, pair = status.text("token"), self._pair(status)
        if not token and pair is None:
            raise printed.wrong("status", "holds neither a token nor a client certificate")
        return Credential(
            origin=self.origin, token=Secret(token) if token else None, pair=pair, expires=_expiry(status)
        )

    def _pair(self, status: Fields) -> KeyPair | None:
        certificate, key = status.text("clientCertificateData"), status.text("clientKeyData")
        if bool(certificate) is not bool(key):
            raise status.wrong("clientCertificateData", "certificate and key must be given together")
        if not certificate:
            return None
        return KeyPair(certificate=self._pem(certificate), key=self._pem(key))

    def _pem(self, text: str) -> Pem:
        return Pem(content=text.encode("ascii", "ignore"), origin=self.origin)

    def _late(self) -> CredentialsUnusable:
        return self._unusable(f"has not ended within {self._timeout_s:g} s")

    def _unusable(self, rule: str, remedy: str = "") -> CredentialsUnusable:
        return CredentialsUnusable(f"{self.origin}: {rule}", remedy=remedy or self._remedy())

    def _remedy(self) -> str:
        return shown(self._plugin.install_hint) or "run it by hand, as the agent's user, to see what it says"


def _json(output: bytes) -> Any:
    """Return what JSON says, None for what is no JSON; a decoding error would carry the output along."""
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return None


def _expiry(status: Fields) -> datetime | None:
    """Return until when a credential counts; an offset is part of RFC 3339."""
    text = status.text("expirationTimestamp")
    if text in _NO_EXPIRY:
        return None
    try:
        expires = datetime.fromisoformat(text)
    except ValueError:
        expires = datetime.min  # noqa: DTZ901 -- without an offset it is refused below
    if expires.tzinfo is None:
        raise status.wrong("expirationTimestamp", "must be a time as in 2030-01-02T15:04:05Z")
    return expires


def _is_json(value: Any) -> bool:
    """Tell whether a parsed YAML value is known in full; numbers and dates are not (see yaml_document)."""
    if isinstance(value, dict):
        return all(_is_json(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_is_json(inner) for inner in value)
    return isinstance(value, str | bool | None)
