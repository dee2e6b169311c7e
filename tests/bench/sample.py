"""The nodes that are measured: the same bytes on every run. One mirror per host, with credentials and a CA."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.parse import version, wire, yaml_document
from agent.parse.document import MAX_DOCUMENT_BYTES

REPOSITORY = Path(__file__).parents[2]
SOURCE = "etc/registry-agent/desired.yaml"
REGISTRY = "etc/containerd/registry.d"
STATE = "var/lib/registry-agent"
STOP_S = 10
#: A process that hangs is killed, and whoever waits for its output sees the end of it.
LIMIT_S = 300

#: Made once with openssl; nothing depends on its key or its dates.
CA = """\
-----BEGIN CERTIFICATE-----
MIIBcTCCARigAwIBAgIBATAKBggqhkjOPQQDAjAXMRUwEwYDVQQDDAxCZW5jaG1h
cmsgQ0EwIBcNMjYxMTIzMTM0NjMzWhgPMjEyNjEwMzAxMzQ2MzNaMBcxFTATBgNV
BAMMDEJlbmNobWFyayBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMCzZjP5
BaSvS7+ez0Pu/lEbdWRcxx+fplCo+MBQ6yeLLyafVzhpa9yt68Pkz5cBKrbs4y5X
ha5NUvRMZZbYuiGjUzBRMB0GA1UdDgQWBBTzwSnxtCKZ6FE54OCAYhnPVP/cejAf
BgNVHSMEGDAWgBTzwSnxtCKZ6FE54OCAYhnPVP/cejAPBgNVHRMBAf8EBTADAQH/
MAoGCCqGSM49BAMCA0cAMEQCIFFzdKqi1FXZEAL2l5tDBc1tb7kdE+rR4rzeAfek
y8BzAiAg6mvMaU+I3UAfMSPQzvbA50KdXnex+aX5ljbzzmX5BA==
-----END CERTIFICATE-----
"""


def document(hosts: int, *, revision: int = 0) -> tuple[bytes, str]:
    """Return a desired config and its version; another `revision` has other credentials for every host."""
    lines = ["imagesBase: registry-0000.example.com/system", "mode: Direct", "hosts:"]
    for index in range(hosts):
        lines += [f"  registry-{index:04}.example.com:", "    mirrors:", f"    - host: mirror-{index:04}.example.com"]
        lines += ["      scheme: https", f"      auth: {{username: node, password: secret-{revision}, auth: ''}}"]
        lines += ["      ca: |", *(f"        {line}" for line in CA.splitlines())]
    text = "\n".join(lines)
    unversioned = f"{text}\nversion: none\n".encode()
    digest = version.digest(wire.read(yaml_document.load(unversioned, max_bytes=MAX_DOCUMENT_BYTES)))
    return f"{text}\nversion: {digest}\n".encode(), digest


def fresh(root: Path, source: bytes) -> Path:
    """Make `root` anew: the source in place, registry.d and the state directory empty."""
    shutil.rmtree(root, ignore_errors=True)
    for directory in (REGISTRY, f"{STATE}/backup", "etc/registry-agent"):
        (root / directory).mkdir(parents=True)
    (root / SOURCE).write_bytes(source)
    return root


@contextmanager
def running(
    *arguments: str, errors: int | None = None, commands: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with these arguments from the checkout, and end it. `commands` is for its standard input."""
    others = ("REGISTRY_AGENT_", "KUBERNETES_", "NODE_NAME")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    command = [sys.executable, *arguments]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdin=commands, stdout=subprocess.PIPE, stderr=errors
    )
    limit = threading.Timer(LIMIT_S, process.kill)
    limit.start()
    with process:
        try:
            yield process
            process.terminate()
            process.wait(STOP_S)
        finally:
            limit.cancel()
            process.kill()
