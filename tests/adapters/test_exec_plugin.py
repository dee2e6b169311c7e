"""Exec plugins as real programs: what they are told, what is believed, and how they are ended."""

import base64
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent.errors import CredentialsUnusable
from agent.kube.credentials import KubeconfigFile
from agent.kube.exec_plugin import MARGIN, MAX_OUTPUT_BYTES
from tests.support.kubeconfigs import CANARY, SERVER, encoded, greeted, identity, pem, raw, serving, told, write

_V1 = "client.authentication.k8s.io/v1"
_PATH = {"PATH": "/usr/bin:/bin"}
_START = datetime(2030, 1, 1, tzinfo=UTC)
#: Each run leaves a line in the file `runs` beside the program, and a token of its own.
_COUNTING = """\
#!/bin/sh
echo run >> {folder}/runs
sed "s/NUMBER/$(wc -l < {folder}/runs)/" {folder}/answer.json
"""


class Plugin:
    """A program in a folder, and a kubeconfig that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = _START

    def program(self, script: str) -> Path:
        """Write the program itself."""
        path = write(self.folder / "node-login", script.replace("{folder}", str(self.folder)))
        path.chmod(0o755)
        return path

    def answers(self, **status: Any) -> None:
        """Let the program print a credential; NUMBER in it becomes the number of its run."""
        answer = {"kind": "ExecCredential", "apiVersion": _V1, "status": status}
        write(self.folder / "answer.json", json.dumps(answer))
        self.program(_COUNTING)

    def credentials(
        self, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **more: Any
    ) -> KubeconfigFile:
        """Write the kubeconfig and return what reads it; `more` are further fields of `exec`."""
        settings: dict[str, Any] = {
            key: more.pop(key) for key in ("environment", "root", "plugin_timeout_s") if key in more
        }
        plugin = {"apiVersion": _V1, "command": "./node-login", "interactiveMode": "Never", **more}
        path = write(self.folder / "kubeconfig", raw(cluster=cluster, user={"exec": plugin, **(user or {})}))
        defaults: dict[str, Any] = {"environment": _PATH, "now": lambda: self.now}
        return KubeconfigFile(path, **(defaults | settings))

    @property
    def runs(self) -> int:
        """How often it ran."""
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Return a folder for a plugin."""
    return Plugin(tmp_path)


def _header(credentials: KubeconfigFile, *, is_refused: bool = False) -> str | None:
    found = credentials.access(is_refused=is_refused).authorization
    return found.reveal() if found else None


def _refusal(credentials: KubeconfigFile) -> str:
    """Return what the operator is told; the canary is nowhere in it."""
    with pytest.raises(CredentialsUnusable) as caught:
        credentials.access(is_refused=False)
    assert CANARY not in told(caught.value)
    return str(caught.value)


# When it runs


def test_a_credential_without_an_end_is_kept_until_it_is_refused(plugin: Plugin) -> None:
    """One run for many requests; one more for a 401."""
    plugin.answers(token="token-NUMBER")
    credentials = plugin.credentials()
    assert ["Bearer token-1"] * 3 == [_header(credentials) for _ in range(3)]
    plugin.now += timedelta(days=365)
    assert ("Bearer token-1", 1) == (_header(credentials), plugin.runs)
    assert ("Bearer token-2", 2) == (_header(credentials, is_refused=True), plugin.runs)
    assert ("Bearer token-2", 2) == (_header(credentials), plugin.runs)


@pytest.mark.parametrize("end", [None, "", "0001-01-01T00:00:00Z"])
def test_no_end_may_be_said_in_three_ways(plugin: Plugin, end: str | None) -> None:
    """Null, nothing, and the zero time of a careless Go program."""
    plugin.answers(token="token-NUMBER", expirationTimestamp=end)
    credentials = plugin.credentials()
    assert ["Bearer token-1"] * 2 == [_header(credentials), _header(credentials)]


@pytest.mark.parametrize("end", ["2030-01-01T01:00:00Z", "2030-01-01T02:00:00+01:00", "2030-01-01T01:00:00.000000001Z"])
def test_a_credential_is_used_until_shortly_before_its_end(plugin: Plugin, end: str) -> None:
    """A request needs some time to arrive."""
    plugin.answers(token="token-NUMBER", expirationTimestamp=end)
    credentials = plugin.credentials()
    assert _header(credentials) == "Bearer token-1"
    plugin.now = _START + timedelta(hours=1) - MARGIN - timedelta(seconds=1)
    assert _header(credentials) == "Bearer token-1"
    plugin.now += timedelta(seconds=1)
    assert ("Bearer token-2", 2) == (_header(credentials), plugin.runs)


@pytest.mark.parametrize("end", ["2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_a_credential_of_the_past_is_used_once(plugin: Plugin, end: str) -> None:
    """The clocks may differ: the server judges, and the next request asks again."""
    plugin.answers(token="token-NUMBER", expirationTimestamp=end)
    credentials = plugin.credentials()
    assert ["Bearer token-1", "Bearer token-2"] == [_header(credentials), _header(credentials)]


def test_a_changed_kubeconfig_asks_again(plugin: Plugin) -> None:
    """It may name another account."""
    plugin.answers(token="token-NUMBER")
    credentials = plugin.credentials()
    assert _header(credentials) == "Bearer token-1"
    plugin.credentials(args=["--other-account"])
    assert _header(credentials) == "Bearer token-2"


def test_a_failure_is_not_remembered(plugin: Plugin) -> None:
    """And neither is the credential that was refused before it."""
    plugin.answers(token="token-NUMBER")
    credentials = plugin.credentials()
    assert _header(credentials) == "Bearer token-1"
    plugin.program("#!/bin/sh\nexit 1\n")
    with pytest.raises(CredentialsUnusable):
        credentials.access(is_refused=True)
    assert "exit code 1" in _refusal(credentials)
    plugin.program(_COUNTING)
    assert _header(credentials) == "Bearer token-2"


def test_threads_that_come_together_make_one_run(plugin: Plugin) -> None:
    """Two watches start at once; a login may cost a second or a quota."""
    plugin.answers(token="token-NUMBER")
    credentials = plugin.credentials()
    start, found = threading.Barrier(4), []

    def ask() -> None:
        start.wait()
        found.append(_header(credentials))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (["Bearer token-1"] * 4, 1) == (found, plugin.runs)


# What it is told

_TELLING = """\
#!/usr/bin/python3
import json, os, sys
seen = {"args": sys.argv, "environment": dict(os.environ), "input": sys.stdin.read(), "session": os.getsid(0)}
with open("{folder}/seen.json", "w") as file:
    json.dump(seen, file)
json.dump({"kind": "ExecCredential", "apiVersion": "API", "status": {"token": "t"}}, sys.stdout)
"""


def _seen(plugin: Plugin, *, version: str = _V1, **more: Any) -> dict[str, Any]:
    plugin.program(_TELLING.replace("API", version))
    assert _header(plugin.credentials(apiVersion=version, **more)) == "Bearer t"
    seen: dict[str, Any] = json.loads((plugin.folder / "seen.json").read_bytes())
    seen["info"] = json.loads(seen["environment"].pop("KUBERNETES_EXEC_INFO"))
    return seen


def test_a_plugin_gets_arguments_environment_and_no_terminal(plugin: Plugin) -> None:
    """The kubeconfig's variables go before the agent's; the input is empty; the session is its own."""
    env = [{"name": "PROFILE", "value": "node"}, {"name": "EMPTY"}]
    environment = {**_PATH, "PROFILE": "agent", "HTTPS_PROXY": "http://proxy"}
    seen = _seen(plugin, args=["get-token", "--x y"], env=env, environment=environment)
    assert ["get-token", "--x y"] == seen["args"][1:]
    expected = {**_PATH, "PROFILE": "node", "EMPTY": "", "HTTPS_PROXY": "http://proxy"}
    assert expected == {key: seen["environment"].get(key) for key in expected}
    assert ("", True) == (seen["input"], seen["session"] != os.getsid(0))
    assert {"kind": "ExecCredential", "apiVersion": _V1, "spec": {"interactive": False}} == seen["info"]


def test_a_beta_plugin_is_spoken_to_in_beta(plugin: Plugin) -> None:
    """Kubeconfigs of EKS are written for it until today."""
    beta = f"{_V1}beta1"
    assert beta == _seen(plugin, version=beta)["info"]["apiVersion"]


def test_a_plugin_is_told_about_the_cluster_if_it_asks(plugin: Plugin) -> None:
    """With the CA as content even if the kubeconfig names a path, and with its own extension."""
    write(plugin.folder / "ca.crt", pem(trustme.CA()))
    extension = {"audience": "api", "flags": [True, None], "empty": {}}
    cluster = {
        "server": SERVER,
        "certificate-authority": "ca.crt",
        "tls-server-name": "api",
        "proxy-url": "http://proxy:3128",
        "extensions": [
            {"name": "other", "extension": {"port": 1}},
            {"name": "client.authentication.k8s.io/exec", "extension": extension},
        ],
    }
    told_cluster = _seen(plugin, cluster=cluster, provideClusterInfo=True)["info"]["spec"]["cluster"]
    content = base64.b64decode(told_cluster.pop("certificate-authority-data"))
    assert content == (plugin.folder / "ca.crt").read_bytes()
    rest = {"server": SERVER, "tls-server-name": "api", "proxy-url": "http://proxy:3128", "config": extension}
    assert rest == told_cluster


def test_a_number_in_the_plugins_extension_is_refused(plugin: Plugin) -> None:
    """The strict reader keeps no numbers, and half a configuration is worse than none."""
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"list": [{"port": 1}]}}
    cluster = {"server": SERVER, "extensions": [extension]}
    plugin.answers(token="t")
    assert "holds a number or a date; quote it" in _refusal(
        plugin.credentials(cluster=cluster, provideClusterInfo=True)
    )
    assert _header(plugin.credentials(cluster=cluster)) == "Bearer t"


# Where it is found


def test_a_bare_name_is_looked_up_in_the_path(plugin: Plugin, tmp_path: Path) -> None:
    """In the agent's own, never in the directory of the kubeconfig."""
    plugin.answers(token="token-NUMBER")
    assert "exec plugin node-login: is not there" in _refusal(plugin.credentials(command="node-login"))
    environment = {"PATH": f"/nowhere:{tmp_path}:/usr/bin:/bin"}
    assert _header(plugin.credentials(command="node-login", environment=environment)) == "Bearer token-1"


def test_a_path_is_the_nodes(plugin: Plugin, tmp_path: Path) -> None:
    """Relative to the kubeconfig, or absolute below the root, through absolute links."""
    plugin.answers(token="token-NUMBER")
    write(tmp_path / "host/opt/v2/node-login", (tmp_path / "node-login").read_bytes()).chmod(0o755)
    (tmp_path / "host/opt/current").symlink_to("/opt/v2")
    root = tmp_path / "host"
    assert _header(plugin.credentials(command="/opt/current/node-login", root=root)) == "Bearer token-1"
    assert _header(plugin.credentials(command=str(tmp_path / "node-login"))) == "Bearer token-2"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "is not there, or may not be executed"),
        ("#!/nonexistent/interpreter\n", "cannot be started: No such file or directory"),
        ("no program at all\n", "cannot be started: Exec format error"),
    ],
    ids=["missing", "no-interpreter", "no-format"],
)
def test_a_program_that_cannot_run_is_told_with_the_hint(plugin: Plugin, script: str | None, why: str) -> None:
    """The hint is made for that very moment."""
    if script is not None:
        plugin.program(script)
    credentials = plugin.credentials(installHint="install it\nwith apt\x1b[2J", args=[CANARY])
    assert f"exec plugin ./node-login: {why}; install it with apt?[2J" == _refusal(credentials)


def test_a_file_that_is_not_executable_is_no_program(plugin: Plugin) -> None:
    """As a shell says it."""
    plugin.program("#!/bin/sh\n").chmod(0o644)
    assert "is not there, or may not be executed; run it by hand" in _refusal(plugin.credentials())


# How it ends


@pytest.mark.parametrize(
    ("end", "why"), [("exit 3", "failed with exit code 3"), ("kill -9 $$", "was ended by signal 9")], ids=["3", "9"]
)
def test_a_failure_tells_its_code_and_nothing_that_was_said(plugin: Plugin, end: str, why: str) -> None:
    """A cloud's command line prints tokens when it is told to debug."""
    plugin.program(f"#!/bin/sh\necho {CANARY}\necho {CANARY} >&2\n{end}\n")
    env = [{"name": "SECRET", "value": CANARY}]
    message = _refusal(plugin.credentials(args=[CANARY], env=env, installHint="ask the platform team"))
    assert f"exec plugin ./node-login: {why}; ask the platform team" == message


@pytest.mark.parametrize("script", ["sleep 60", "sleep 60 & wait", "sleep 60 & exit 0", "exec >&-; sleep 60"])
def test_a_plugin_that_does_not_end_is_ended_with_its_children(plugin: Plugin, script: str) -> None:
    """Whoever is left of it holds the pipe open that this test reads to its end."""
    os.mkfifo(plugin.folder / "alive")
    with open(os.open(plugin.folder / "alive", os.O_RDONLY | os.O_NONBLOCK), "rb") as alive:
        plugin.program(f"#!/bin/sh\nexec 3>{{folder}}/alive\necho started >&3\n{script}\n")
        message = _refusal(plugin.credentials(args=[CANARY], plugin_timeout_s=1.0))
        os.set_blocking(alive.fileno(), True)
        assert ("exec plugin ./node-login: has not ended within 1 s", b"started\n") == (
            message.split(";")[0],
            alive.read(),
        )


def test_what_a_plugin_says_on_stderr_does_not_stop_it(plugin: Plugin) -> None:
    """A full pipe that nobody reads would."""
    plugin.answers(token="token-NUMBER")
    plugin.program(_COUNTING.replace("#!/bin/sh\n", "#!/bin/sh\nhead -c 1000000 /dev/zero >&2\n"))
    assert _header(plugin.credentials()) == "Bearer token-1"


def test_endless_output_is_cut_off(plugin: Plugin) -> None:
    """Before it fills the memory."""
    plugin.program("#!/bin/sh\nexec cat /dev/zero\n")
    assert f"prints more than {MAX_OUTPUT_BYTES} bytes" in _refusal(plugin.credentials())


# What is believed


def _printed(status: object = None, *, kind: object = "ExecCredential", version: object = _V1) -> str:
    return json.dumps({"kind": kind, "apiVersion": version, "status": status})


_GARBAGE = {
    "nothing": ("", "output: kind: must be ExecCredential"),
    "text": (CANARY, "output: kind: must be ExecCredential"),
    "half": (_printed({"token": CANARY})[:-2], "output: kind: must be ExecCredential"),
    "two": (_printed({"token": CANARY}) * 2, "output: kind: must be ExecCredential"),
    "deep": ("[" * 100_000, "output: kind: must be ExecCredential"),
    "list": (f'["{CANARY}"]', "output: the document: must be a map"),
    "kind": (_printed({"token": CANARY}, kind=CANARY), "output: kind: must be ExecCredential"),
    "version": (_printed({"token": CANARY}, version=f"{_V1}beta1"), f"output: apiVersion: must be {_V1}, as the"),
    "no-status": (_printed(), "output: status: holds neither a token nor a client certificate"),
    "status-text": (_printed(CANARY), "output: status: must be a map"),
    "token-number": (_printed({"token": 5}), "output: status.token: must be text"),
    "token-lines": (_printed({"token": f"{CANARY}\nX: 1"}), "exec plugin ./node-login: token: holds no token"),
    "token-surrogate": (_printed({"token": f"{CANARY}\ud800"}), "exec plugin ./node-login: token: holds no token"),
    "no-key": (_printed({"token": "t", "clientCertificateData": CANARY}), "clientCertificateData: certificate and key"),
    "no-pair": (
        _printed({"clientCertificateData": f"{CANARY}\ud800", "clientKeyData": CANARY}),
        "exec plugin ./node-login: client certificate and private key do not parse",
    ),
    "end-text": (_printed({"token": "t", "expirationTimestamp": CANARY}), "expirationTimestamp: must be a time as"),
    "end-naive": (_printed({"token": "t", "expirationTimestamp": "2030-01-01T00:00:00"}), "must be a time as"),
    "end-number": (_printed({"token": "t", "expirationTimestamp": 5}), "expirationTimestamp: must be text"),
}


@pytest.mark.parametrize("name", _GARBAGE)
def test_output_that_breaks_the_contract_is_refused_unseen(plugin: Plugin, name: str) -> None:
    """By the place in it, without a word of it."""
    output, rule = _GARBAGE[name]
    write(plugin.folder / "output", output)
    plugin.program("#!/bin/sh\nexec cat {folder}/output\n")
    assert rule in _refusal(plugin.credentials())


def test_a_plugins_client_certificate_lets_in(plugin: Plugin) -> None:
    """A new one makes a new context; the same one keeps it."""
    ca = trustme.CA()
    with serving(ca, clients=ca) as url:
        cluster = {"server": url, "certificate-authority-data": encoded(pem(ca))}
        credentials = plugin.credentials(cluster=cluster)
        contexts = []
        for name in ("first", "second"):
            issued = identity(ca, name)
            plugin.answers(clientCertificateData=issued.certificate.decode(), clientKeyData=issued.key.decode())
            access = credentials.access(is_refused=name == "second")
            assert (name, None) == (greeted(access), access.authorization)
            assert access.tls is credentials.access(is_refused=True).tls
            contexts.append(access.tls)
        assert contexts[0] is not contexts[1]


def test_what_the_user_has_goes_before_the_plugins(plugin: Plugin) -> None:
    """As in client-go: a token in the kubeconfig is what its owner meant."""
    plugin.answers(token="token-NUMBER")
    assert _header(plugin.credentials(user={"token": "own"})) == "Bearer own"


def test_nothing_shows_a_plugins_secret(plugin: Plugin) -> None:
    """Neither what it is given nor what it gives."""
    plugin.answers(token=CANARY)
    credentials = plugin.credentials(args=[CANARY], env=[{"name": "SECRET", "value": CANARY}])
    access = credentials.access(is_refused=False)
    assert credentials._loaded is not None
    assert credentials._loaded.plugin is not None
    said = (
        f"{access!r} {vars(credentials)!r} {credentials._loaded.plugin._kept!r} {credentials._loaded.plugin._plugin!r}"
    )
    assert CANARY not in said
