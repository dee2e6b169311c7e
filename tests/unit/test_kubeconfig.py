"""What is read from a kubeconfig, and where a refusal points."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.errors import CredentialsUnusable
from agent.kube.kubeconfig import Cluster, Kubeconfig, Plugin, User, parse
from agent.model import Secret
from tests.support.kubeconfigs import CANARY, SERVER, document, encoded, raw, told

_KUBELET = b"""\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: UEVN
    server: https://10.0.0.10:6443
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: system:node:node-1
  name: system:node:node-1@kubernetes
current-context: system:node:node-1@kubernetes
kind: Config
preferences: {}
users:
- name: system:node:node-1
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
"""

_BOOTSTRAP = b"""\
apiVersion: v1
kind: Config
clusters:
  - name: default
    cluster:
      server: https://[fd00::1]:6443/
      certificate-authority: pki/ca.crt
contexts: [{name: default, context: {cluster: default, user: kubelet-bootstrap}}]
current-context: default
users:
  - name: kubelet-bootstrap
    user: {as-user-extra: {}, token: abcdef.0123456789abcdef}
"""

_MINIKUBE = b"""\
apiVersion: v1
clusters:
- cluster:
    certificate-authority: /home/u/.minikube/ca.crt
    extensions:
    - extension:
        last-update: Mon, 02 Jan 2023 10:00:00 CET
        port: 8443
        at: 2023-01-02T10:00:00Z
        provider: minikube.sigs.k8s.io
        version: v1.28.0
      name: cluster_info
    server: https://192.168.49.2:8443
  name: minikube
contexts:
- context:
    cluster: minikube
    extensions:
    - extension: {version: 1.28}
      name: context_info
    namespace: default
    user: minikube
  name: minikube
current-context: minikube
kind: Config
preferences: {colors: yes}
users:
- name: minikube
  user:
    client-certificate: profiles/minikube/client.crt
    client-key: profiles/minikube/client.key
"""

_EKS = b"""\
apiVersion: v1
clusters:
- cluster: {certificate-authority-data: UEVN, server: https://A.gr7.eu-west-1.eks.amazonaws.com}
  name: arn:aws:eks:eu-west-1:111122223333:cluster/prod
contexts:
- context:
    cluster: arn:aws:eks:eu-west-1:111122223333:cluster/prod
    user: arn:aws:eks:eu-west-1:111122223333:cluster/prod
  name: arn:aws:eks:eu-west-1:111122223333:cluster/prod
current-context: arn:aws:eks:eu-west-1:111122223333:cluster/prod
kind: Config
preferences: {}
users:
- name: arn:aws:eks:eu-west-1:111122223333:cluster/prod
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      args:
      - --region
      - eu-west-1
      - eks
      - get-token
      command: aws
      env:
      - name: AWS_PROFILE
        value: prod
      interactiveMode: IfAvailable
      provideClusterInfo: false
"""

_GKE = b"""\
apiVersion: v1
kind: Config
current-context: gke
contexts: [{name: gke, context: {cluster: gke, user: gke}}]
clusters: [{name: gke, cluster: {server: 'https://34.0.0.1', certificate-authority-data: UEVN}}]
users:
- name: gke
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: gke-gcloud-auth-plugin
      args: null
      env: null
      installHint: Install gke-gcloud-auth-plugin for use with kubectl
      interactiveMode: Never
      provideClusterInfo: true
"""

_KUBECTL_PROXY = b"""\
apiVersion: v1
clusters: [{cluster: {server: http://127.0.0.1:8001}, name: proxy}]
contexts: [{context: {cluster: proxy, user: ""}, name: proxy}]
current-context: proxy
kind: Config
users: null
"""

_GKE_HINT = "Install gke-gcloud-auth-plugin for use with kubectl"
_BETA = "client.authentication.k8s.io/v1beta1"
_V1 = "client.authentication.k8s.io/v1"
_CURRENT = "/var/lib/kubelet/pki/kubelet-client-current.pem"

_REAL = {
    "kubeadm-kubelet": (
        _KUBELET,
        Cluster(server="https://10.0.0.10:6443", ca=b"PEM"),
        User(certificate=_CURRENT, key=_CURRENT),
    ),
    "bootstrap": (
        _BOOTSTRAP,
        Cluster(server="https://[fd00::1]:6443", ca="pki/ca.crt"),
        User(token=Secret("abcdef.0123456789abcdef")),
    ),
    "minikube": (
        _MINIKUBE,
        Cluster(server="https://192.168.49.2:8443", ca="/home/u/.minikube/ca.crt"),
        User(certificate="profiles/minikube/client.crt", key="profiles/minikube/client.key"),
    ),
    "eks": (
        _EKS,
        Cluster(server="https://A.gr7.eu-west-1.eks.amazonaws.com", ca=b"PEM"),
        User(
            plugin=Plugin(
                api_version=_BETA,
                command="aws",
                args=("--region", "eu-west-1", "eks", "get-token"),
                environment=(("AWS_PROFILE", "prod"),),
            )
        ),
    ),
    "gke": (
        _GKE,
        Cluster(server="https://34.0.0.1", ca=b"PEM"),
        User(
            plugin=Plugin(
                api_version=_V1, command="gke-gcloud-auth-plugin", install_hint=_GKE_HINT, is_given_cluster=True
            )
        ),
    ),
    "kubectl-proxy": (_KUBECTL_PROXY, Cluster(server="http://127.0.0.1:8001"), User()),
}


@pytest.mark.parametrize("name", _REAL)
def test_what_tools_write_is_read(name: str) -> None:
    """Real shapes: nulls, empty maps, extensions with numbers and dates, names with colons."""
    content, cluster, user = _REAL[name]
    assert Kubeconfig(cluster=cluster, user=user) == parse(content, origin="kubeconfig")


def test_json_is_read() -> None:
    """With tabs and escapes, as Go's encoder writes it."""
    content = json.dumps(document(user={"token": "a<b>\u00e9"}), indent="\t").replace("<", "\\u003c").encode()
    assert Secret("a<b>é") == parse(content, origin="kubeconfig").user.token


def test_content_goes_before_a_path() -> None:
    """As in client-go, which keeps the path for messages only."""
    both = {"certificate-authority": "/ca.crt", "certificate-authority-data": encoded("PEM")}
    assert parse(raw(cluster={"server": SERVER, **both}), origin="kubeconfig").cluster.ca == b"PEM"


def test_line_breaks_in_base64_are_passed_over() -> None:
    """`base64` without -w0 breaks its lines, and a block scalar keeps them."""
    cluster = {"server": SERVER, "certificate-authority-data": "UE\nVN\n"}
    assert parse(raw(cluster=cluster), origin="kubeconfig").cluster.ca == b"PEM"


def _with_other_context() -> dict[str, Any]:
    found = document()
    found["clusters"].append({"name": "far", "cluster": {"server": "https://far:1", "tls-server-name": "api"}})
    found["contexts"].append({"name": "there", "context": {"cluster": "far", "user": "node"}})
    return found


def test_the_settings_context_goes_before_the_current_one() -> None:
    """Each context has its own cluster."""
    content = json.dumps(_with_other_context()).encode()
    assert parse(content, origin="kubeconfig").cluster == Cluster(server=SERVER)
    chosen = parse(content, origin="kubeconfig", context="there").cluster
    assert chosen == Cluster(server="https://far:1", tls_server_name="api")


def test_contexts_that_are_not_chosen_need_not_be_usable() -> None:
    """An operator's file may hold a cloud login of long ago."""
    found = document()
    found["users"].append({"name": "old", "user": {"auth-provider": {"name": "gcp"}, "token": 5}})
    found["clusters"].append({"name": "old", "cluster": None})
    assert parse(json.dumps(found).encode(), origin="kubeconfig").cluster == Cluster(server=SERVER)


_EXEC = {"apiVersion": _V1, "command": "login"}

_CLUSTER_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no-server": ({}, "clusters[0].cluster.server: must be https://host:port"),
    "server-number": ({"server": 6443}, "clusters[0].cluster.server: must be text, in quotes if"),
    "server-without-scheme": ({"server": "10.0.0.1:6443"}, "server: must be https://host:port"),
    "server-other-scheme": ({"server": "unix:///run/api.sock"}, "server: must be https://host:port"),
    "server-with-login": ({"server": f"https://u:{CANARY}@h:1"}, "server: must be https://host:port"),
    "server-with-query": ({"server": f"https://h?{CANARY}"}, "server: must be https://host:port"),
    "server-bad-port": ({"server": f"https://h:{CANARY}"}, "server: must be https://host:port"),
    "server-bad-ip": ({"server": f"https://[{CANARY}]"}, "server: must be https://host:port"),
    "server-with-blank": ({"server": "https://h x:1"}, "server: must be https://host:port"),
    "server-two-lines": ({"server": "https://h:1\nx"}, "server: must be https://host:port"),
    "socks": ({"server": SERVER, "proxy-url": f"socks5://u:{CANARY}@h:1"}, "proxy-url: must be http://host:port"),
    "proxy-port": ({"server": SERVER, "proxy-url": f"http://h:{CANARY}"}, "proxy-url: must be http://host:port"),
    "ca-not-base64": ({"server": SERVER, "certificate-authority-data": "%%"}, "-data: must be base64"),
    "insecure-text": ({"server": SERVER, "insecure-skip-tls-verify": "true"}, "verify: must be true or false"),
    "insecure-with-ca": (
        {"server": SERVER, "insecure-skip-tls-verify": True, "certificate-authority": "/ca.crt"},
        "clusters[0].cluster.insecure-skip-tls-verify: must not be true beside a certificate authority",
    ),
    "omitted": ({"server": SERVER, "certificate-authority-data": "DATA+OMITTED"}, "-data: was left out by kubectl"),
}


@pytest.mark.parametrize("name", _CLUSTER_FAULTS)
def test_a_wrong_cluster_is_refused_by_path(name: str) -> None:
    """The path of the field and the rule, never the value."""
    cluster, rule = _CLUSTER_FAULTS[name]
    assert rule in _refused(raw(cluster=cluster))


_USER_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "token-number": ({"token": 12345}, "users[0].user.token: must be text, in quotes if"),
    "token-redacted": ({"token": "REDACTED"}, "users[0].user.token: was left out by kubectl"),
    "nul": ({"tokenFile": f"/{CANARY}\0"}, "users[0].user.tokenFile: holds a NUL"),
    "certificate-without-key": ({"client-certificate": "/c"}, "user.client-certificate: certificate and key must"),
    "key-without-certificate": ({"client-key-data": "UEVN"}, "user.client-certificate: certificate and key must"),
    "two-logins": ({"username": "u", "password": CANARY, "token": CANARY}, "user.username: must not stand beside"),
    "auth-provider": (
        {"auth-provider": {"name": "oidc", "config": {"refresh-token": CANARY}}},
        "users[0].user.auth-provider: is not supported (client-go 1.26 removed it, too); use an exec plugin",
    ),
    "as": ({"as": CANARY}, "users[0].user.as: impersonation is not supported; log in as the wanted user"),
    "as-groups": ({"as-groups": ["g"]}, "users[0].user.as-groups: impersonation is not supported"),
    "exec-text": ({"exec": "aws"}, "users[0].user.exec: must be a map"),
    "exec-alpha": ({"exec": _EXEC | {"apiVersion": "client.authentication.k8s.io/v1alpha1"}}, "exec.apiVersion: must"),
    "exec-no-command": ({"exec": {"apiVersion": _V1}}, "users[0].user.exec.command: is missing"),
    "exec-terminal": ({"exec": _EXEC | {"interactiveMode": "Always"}}, "interactiveMode: must be Never or IfAvailable"),
    "exec-args": ({"exec": _EXEC | {"args": CANARY}}, "users[0].user.exec.args: must be a list"),
    "exec-arg": ({"exec": _EXEC | {"args": ["a", 1]}}, "users[0].user.exec.args[1]: must be text"),
    "exec-env": ({"exec": _EXEC | {"env": [{"value": CANARY}]}}, "exec.env[0].name: must be the name of an env"),
    "exec-env-equals": ({"exec": _EXEC | {"env": [{"name": "A=B"}]}}, "exec.env[0].name: must be the name of an env"),
}


@pytest.mark.parametrize("name", _USER_FAULTS)
def test_a_wrong_user_is_refused_by_path(name: str) -> None:
    """What would log in as nobody, as somebody else, or not at all."""
    user, rule = _USER_FAULTS[name]
    assert rule in _refused(raw(user=user))


_FILE_FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "kubeconfig: line 1: the document is empty"),
    "half": (_KUBELET[:120] + b'\n  "', "kubeconfig: not valid YAML at line"),
    "list": (b"[]", "kubeconfig: the document: must be a map"),
    "twice": (b"kind: Config\nkind: Config\n", "kubeconfig: line 2: a key stands twice in one map"),
    "alias": (b"users: &a []\nclusters: *a\n", "kubeconfig: line 1: YAML anchors and aliases are not allowed"),
    "not-text": (b"token: \xff", "kubeconfig: the document is not UTF-8 at byte 7"),
    "other-kind": (b"kind: KubeletConfiguration\n", "kubeconfig: kind: must be Config: this is no kubeconfig"),
    "no-contexts": (b"kind: Config\n", "kubeconfig: no context is chosen; contexts of this file: none"),
    "contexts-map": (b"contexts: {a: b}\n", "kubeconfig: contexts: must be a list"),
    "entry-text": (b"contexts: [a]\n", "kubeconfig: contexts[0]: must be a map"),
    "name-number": (b"contexts: [{name: 5}]\n", "kubeconfig: contexts[0].name: must be text, in quotes"),
    "name-twice": (b"contexts: [{name: a}, {name: a}]\n", "kubeconfig: contexts[1].name: stands twice in this list"),
    "context-text": (b"contexts: [{name: a, context: b}]\n", "kubeconfig: contexts[0].context: must be a map"),
}


@pytest.mark.parametrize("name", _FILE_FAULTS)
def test_a_wrong_file_is_refused_by_line_or_path(name: str) -> None:
    """A file that is cut short or is something else altogether."""
    content, rule = _FILE_FAULTS[name]
    assert rule in _refused(content)


def _changed(key: str, value: Any) -> bytes:
    return json.dumps(_with_other_context() | {key: value}).encode()


def test_what_does_not_exist_is_told_with_the_names_that_do() -> None:
    """For a context, and for its cluster and its user."""
    names = "contexts of this file: here, there"
    assert f"there is no context gone; {names}; set current-context" in _refused(_changed("current-context", "gone"))
    assert f"there is no context away; {names}" in _refused(_changed("x", 1), context="away")
    assert f"no context is chosen; {names}" in _refused(_changed("current-context", ""))
    lost = "contexts[0].context.cluster: names no entry of clusters; contexts of this file: here, there"
    assert lost in _refused(_changed("clusters", []))
    assert "contexts[0].context.user: names no entry of users; contexts of" in _refused(_changed("users", None))


def test_many_and_odd_names_make_a_short_message() -> None:
    """Names are foreign text."""
    contexts = [{"name": f"c{number}"} for number in range(30)]
    message = _refused(_changed("contexts", contexts))
    assert "contexts of this file: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 20 more" in message
    odd = _refused(_changed("contexts", [{"name": f"a\x1b[2J\n{'x' * 9999}"}]))
    assert ("a?[2J x" in odd, odd.isprintable(), len(odd) < 500) == (True, True, True)


def test_no_shape_of_any_field_gets_past_the_checks() -> None:
    """Every field replaced by every other type: it is refused as it should be, or makes no difference."""
    full = document(
        cluster={"server": SERVER, "proxy-url": "http://h:1", "extensions": [{"name": "x", "extension": {}}]},
        user={"token": "t", "exec": _EXEC | {"args": ["a"], "env": [{"name": "A", "value": "b"}]}},
    )
    for place in _places(full):
        for wrong in (5, True, "", CANARY, [CANARY], {CANARY: CANARY}, [None], None):
            error = _error(json.dumps(_replaced(full, place, wrong)).encode())
            assert place[-1] in {"current-context", "name"} or CANARY not in error


def _error(content: bytes) -> str:
    """Return all that a refusal tells, nothing when there is none; any other exception is a failure."""
    try:
        parse(content, origin="kubeconfig")
    except CredentialsUnusable as err:
        return told(err)
    return ""


def _places(value: Any) -> Iterator[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in inner:
        yield (key,)
        yield from ((key, *rest) for rest in _places(found))


def _replaced(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = new
    return changed


def _refused(content: bytes, *, context: str = "") -> str:
    """Return what the operator is told; the canary is nowhere in it."""
    with pytest.raises(CredentialsUnusable) as caught:
        parse(content, origin="kubeconfig", context=context)
    assert CANARY not in told(caught.value)
    return str(caught.value)


def test_a_parsed_kubeconfig_shows_no_secret() -> None:
    """Whoever logs it by mistake logs no login."""
    users: tuple[dict[str, Any], ...] = (
        {"token": CANARY},
        {"username": "u", "password": CANARY},
        {"client-certificate-data": encoded(CANARY), "client-key-data": encoded(CANARY)},
        {"exec": _EXEC | {"args": [CANARY], "env": [{"name": "A", "value": CANARY}]}},
    )
    cluster = {"server": SERVER, "proxy-url": f"http://u:{CANARY}@h:1", "certificate-authority-data": encoded(CANARY)}
    for user in users:
        found = parse(raw(cluster=cluster, user=user), origin="kubeconfig")
        assert CANARY not in f"{found} {found!r}"
