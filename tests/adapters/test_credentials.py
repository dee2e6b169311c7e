"""Credentials from real files, proven by real TLS handshakes."""

import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from agent.errors import CredentialsUnusable
from agent.kube.credentials import MAX_FILE_BYTES, Access, InCluster, KubeconfigFile
from agent.kube.tls import Terms, build
from tests.support.kubeconfigs import (
    CANARY,
    SERVER,
    Identity,
    encoded,
    greeted,
    identity,
    pem,
    raw,
    serving,
    told,
    write,
)

_HERE = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """Return the CA of the cluster."""
    return trustme.CA()


@pytest.fixture(scope="module")
def other_ca() -> trustme.CA:
    """Return a CA that has nothing to do with it."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server(ca: trustme.CA) -> Iterator[str]:
    """Serve the API's certificate for 127.0.0.1."""
    with serving(ca) as url:
        yield url


def _access(credentials: InCluster | KubeconfigFile) -> Access:
    return credentials.access(is_refused=False)


def _refusal(credentials: InCluster | KubeconfigFile) -> str:
    """Return what the operator is told; the canary is nowhere in it."""
    with pytest.raises(CredentialsUnusable) as caught:
        _access(credentials)
    assert CANARY not in told(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def _header(credentials: InCluster | KubeconfigFile) -> str | None:
    found = _access(credentials).authorization
    return found.reveal() if found else None


# In a pod


@pytest.fixture
def mounted(tmp_path: Path, ca: trustme.CA) -> Path:
    """Return a service account's directory as kubelet mounts it: links to a directory that is swapped."""
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    _project(tmp_path, "first", token="first-token\n", ca=pem(ca))
    return tmp_path


def _project(mount: Path, version: str, *, token: str, ca: bytes) -> None:
    write(mount / f"..{version}" / "token", token)
    write(mount / f"..{version}" / "ca.crt", ca)
    (mount / "..data_tmp").symlink_to(f"..{version}")
    (mount / "..data_tmp").rename(mount / "..data")


def test_a_pod_finds_the_api_and_trusts_its_ca(mounted: Path, server: str) -> None:
    """Server from the environment, token and CA from the mount."""
    port = server.rpartition(":")[2]
    access = _access(InCluster(_HERE | {"KUBERNETES_SERVICE_PORT": port}, mounted))
    assert (server, "Bearer first-token") == (access.server, access.authorization and access.authorization.reveal())
    assert (None, None) == (access.proxy, access.server_hostname)
    assert greeted(access) == "anonymous"


def test_a_pod_follows_each_rotation(mounted: Path, ca: trustme.CA, other_ca: trustme.CA) -> None:
    """The token of the next request; a new context only for a new CA."""
    credentials = InCluster(_HERE, mounted)
    first = _access(credentials)
    _project(mounted, "second", token="second-token", ca=pem(ca))
    second = _access(credentials)
    assert second.authorization is not None
    assert ("Bearer second-token", True) == (second.authorization.reveal(), second.tls is first.tls)
    _project(mounted, "third", token="second-token", ca=pem(other_ca))
    assert _access(credentials).tls is not first.tls


def test_an_ipv6_service_gets_its_brackets(mounted: Path) -> None:
    """Kubernetes sets the bare address."""
    found = _access(InCluster(_HERE | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, mounted)).server
    assert found == "https://[fd00::1]:6443"


def test_outside_of_a_pod_the_operator_is_told_so(mounted: Path) -> None:
    """The remedy names the other way."""
    assert "not set: this is no pod; outside of a pod, name a kubeconfig" in _refusal(InCluster({}, mounted))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        (" \n", "holds no token"),
        (f"a {CANARY}", "holds no token"),
        (f"{CANARY}\r\nX-Evil: 1", "holds no token"),
        (f"{CANARY}é", "holds no token"),
        (b"\xff" + CANARY.encode(), "holds no token"),
        (CANARY * MAX_FILE_BYTES, f"has more than {MAX_FILE_BYTES} bytes"),
    ],
    ids=["empty", "blank", "two-words", "two-lines", "no-ascii", "binary", "huge"],
)
def test_a_token_that_no_header_can_hold_is_refused(mounted: Path, content: str | bytes, why: str) -> None:
    """By its path, and without its content."""
    write(mounted / "token", content)
    message = _refusal(InCluster(_HERE, mounted))
    assert (True, True) == (why in message, f"token {mounted / 'token'}: " in message)


@pytest.mark.parametrize("name", ["token", "ca.crt"])
@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "loop"])
def test_what_is_no_file_is_refused_at_once(mounted: Path, name: str, kind: str) -> None:
    """A FIFO would hold up whoever waits for its writer."""
    path = mounted / name
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    assert f" {path}: " in _refusal(InCluster(_HERE, mounted))


def test_a_token_comes_back_after_it_was_missing(mounted: Path) -> None:
    """No failure is remembered."""
    credentials = InCluster(_HERE, mounted)
    (mounted / "token").rename(mounted / "away")
    assert "No such file or directory" in _refusal(credentials)
    (mounted / "away").rename(mounted / "token")
    assert _header(credentials) == "Bearer first-token"


# From a kubeconfig: whom to trust


def _file(
    folder: Path, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **more: Any
) -> KubeconfigFile:
    path = write(folder / "kubeconfig", raw(cluster=cluster, user=user))
    return KubeconfigFile(path, **({"environment": {}} | more))


def test_the_right_ca_is_trusted(tmp_path: Path, ca: trustme.CA, server: str) -> None:
    """Inline, by a path, by a relative path, and beside others and their comments."""
    bundle = f"# Größte CA\n{pem(trustme.CA()).decode()}# the cluster's\n{pem(ca).decode()}"
    write(tmp_path / "pki" / "ca.crt", bundle)
    for trust in (
        {"certificate-authority-data": encoded(pem(ca))},
        {"certificate-authority-data": encoded(bundle)},
        {"certificate-authority": str(tmp_path / "pki" / "ca.crt")},
        {"certificate-authority": "pki/ca.crt"},
        {"certificate-authority": "./pki/../pki/ca.crt", "certificate-authority-data": ""},
    ):
        assert greeted(_access(_file(tmp_path, cluster={"server": server, **trust}))) == "anonymous"


def test_another_ca_is_not_trusted(tmp_path: Path, other_ca: trustme.CA, server: str) -> None:
    """And neither is anything by default: the system does not know the cluster's CA."""
    for trust in ({"certificate-authority-data": encoded(pem(other_ca))}, {}):
        access = _access(_file(tmp_path, cluster={"server": server, **trust}))
        with pytest.raises(ssl.SSLCertVerificationError):
            greeted(access)


def test_without_a_ca_the_systems_trust_store_counts(
    tmp_path: Path, ca: trustme.CA, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for an API behind a public certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(write(tmp_path / "system.pem", pem(ca))))
    assert greeted(_access(_file(tmp_path, cluster={"server": server}))) == "anonymous"


def test_an_intermediate_ca_is_an_anchor(tmp_path: Path, ca: trustme.CA) -> None:
    """As in Go: a cluster may publish only the CA that signs, not the company's root."""
    intermediate = ca.create_child_ca()
    with serving(intermediate) as url:
        cluster = {"server": url, "certificate-authority-data": encoded(pem(intermediate))}
        assert greeted(_access(_file(tmp_path, cluster=cluster))) == "anonymous"


def test_the_servers_name_is_verified(tmp_path: Path, ca: trustme.CA) -> None:
    """The one in the URL, or tls-server-name in its place."""
    with serving(ca, "api.example") as url:
        cluster = {"server": url, "certificate-authority-data": encoded(pem(ca))}
        unnamed = _access(_file(tmp_path, cluster=cluster))
        with pytest.raises(ssl.SSLCertVerificationError):
            greeted(unnamed)
        named = _access(_file(tmp_path, cluster=cluster | {"tls-server-name": "api.example"}))
        assert ("api.example", "anonymous") == (named.server_hostname, greeted(named))


def test_insecure_means_that_anything_goes(tmp_path: Path, ca: trustme.CA) -> None:
    """Neither name nor CA are looked at."""
    with serving(ca, "api.example") as url:
        cluster = {"server": url, "insecure-skip-tls-verify": True}
        assert greeted(_access(_file(tmp_path, cluster=cluster))) == "anonymous"


def test_contexts_are_strict_where_go_is_and_only_there() -> None:
    """From Python 3.13 the usual way to make a context refuses CAs that kubectl accepts."""
    context = build(Terms())
    assert (ssl.TLSVersion.TLSv1_2, True, ssl.CERT_REQUIRED) == (
        context.minimum_version,
        context.check_hostname,
        context.verify_mode,
    )
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize("content", [CANARY, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"])
def test_a_ca_without_a_certificate_is_refused_by_its_place(tmp_path: Path, content: str) -> None:
    """An empty file is one, too: a volume that is not filled yet must not mean the system's CAs."""
    inline = _file(tmp_path, cluster={"server": SERVER, "certificate-authority-data": encoded(content)})
    where = f"kubeconfig {tmp_path / 'kubeconfig'}: certificate-authority-data"
    assert f"{where}: holds no usable CA certificate" in _refusal(inline)
    path = write(tmp_path / "ca.crt", content)
    by_path = _file(tmp_path, cluster={"server": SERVER, "certificate-authority": "ca.crt"})
    assert f"certificate-authority {path}: holds no usable CA certificate" in _refusal(by_path)
    write(path, "")
    assert f"certificate-authority {path}: is empty" in _refusal(by_path)


def test_plain_http_carries_no_credentials(tmp_path: Path) -> None:
    """As with kubectl: a token in the clear is a token lost."""
    access = _access(_file(tmp_path, cluster={"server": "http://127.0.0.1:8001/"}, user={"token": CANARY}))
    assert access == Access(server="http://127.0.0.1:8001")


# From a kubeconfig: who we are


@pytest.fixture(scope="module")
def strict_server(ca: trustme.CA) -> Iterator[str]:
    """Serve clients with a certificate only."""
    with serving(ca, clients=ca) as url:
        yield url


@pytest.fixture
def strict(strict_server: str, ca: trustme.CA) -> dict[str, Any]:
    """Return the cluster of that server."""
    return {"server": strict_server, "certificate-authority-data": encoded(pem(ca))}


@pytest.fixture(scope="module")
def node_1(ca: trustme.CA) -> Identity:
    """Return a node's identity."""
    return identity(ca, "node-1")


def test_a_client_certificate_lets_in(tmp_path: Path, strict: dict[str, Any], node_1: Identity) -> None:
    """Inline and by path, with both in one file or in two."""
    write(tmp_path / "both.pem", node_1.certificate + node_1.key)
    write(tmp_path / "cert.pem", node_1.certificate)
    write(tmp_path / "key.pem", node_1.key)
    for user in (
        node_1.inline,
        {"client-certificate": str(tmp_path / "both.pem"), "client-key": str(tmp_path / "both.pem")},
        {"client-certificate": "cert.pem", "client-key": "key.pem"},
        {"client-certificate": "cert.pem", "client-key-data": encoded(node_1.key)},
    ):
        assert greeted(_access(_file(tmp_path, cluster=strict, user=user))) == "node-1"


def test_without_a_client_certificate_nobody_is_let_in(tmp_path: Path, strict: dict[str, Any]) -> None:
    """So the server of these tests does look."""
    access = _access(_file(tmp_path, cluster=strict))
    with pytest.raises(ssl.SSLError):
        greeted(access)


def test_an_inline_key_never_touches_a_disk(tmp_path: Path, strict: dict[str, Any], node_1: Identity) -> None:
    """No file is opened for writing, and none is left open in memory either."""
    before = set(os.listdir("/proc/self/fd"))
    files = _file(tmp_path, cluster=strict, user=node_1.inline)
    access = _access(files)
    assert before == set(os.listdir("/proc/self/fd"))
    assert [tmp_path / "kubeconfig"] == list(tmp_path.iterdir())
    assert greeted(access) == "node-1"


@pytest.fixture
def host(tmp_path: Path, ca: trustme.CA, strict: dict[str, Any], node_1: Identity) -> Path:
    """Return a node's root as a pod has it mounted, with a kubelet that has rotated its certificate."""
    root = tmp_path / "host"
    _rotate(root, "2025", node_1)
    write(root / "etc/pki/ca.crt", pem(ca))
    (root / "etc/kubernetes").mkdir()
    (root / "etc/kubernetes/pki").symlink_to("../../../../../etc/pki")
    current = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    cluster = {"server": strict["server"], "certificate-authority": "/etc/kubernetes/pki/ca.crt"}
    user = {"client-certificate": current, "client-key": current}
    write(root / "etc/kubernetes/real.conf", raw(cluster=cluster, user=user))
    (root / "etc/kubernetes/kubelet.conf").symlink_to("/etc/kubernetes/real.conf")
    return root


def _rotate(root: Path, year: str, new: Identity) -> None:
    """Do as kubelet does: a new file, then an absolute link to it."""
    pki = root / "var/lib/kubelet/pki"
    write(pki / f"kubelet-client-{year}.pem", new.certificate + new.key)
    (pki / "next.pem").symlink_to(f"/var/lib/kubelet/pki/kubelet-client-{year}.pem")
    (pki / "next.pem").rename(pki / "kubelet-client-current.pem")


def test_paths_of_the_node_are_followed_below_its_root(host: Path) -> None:
    """With absolute links, and with links that climb higher than the root."""
    credentials = KubeconfigFile(host / "etc/kubernetes/kubelet.conf", root=host)
    assert greeted(_access(credentials)) == "node-1"


def test_kubelets_rotation_is_followed(host: Path, ca: trustme.CA) -> None:
    """One context as long as the certificate stays, another one for the next."""
    credentials = KubeconfigFile(host / "etc/kubernetes/kubelet.conf", root=host)
    first = _access(credentials)
    assert first.tls is credentials.access(is_refused=True).tls
    _rotate(host, "2026", identity(ca, "node-1-renewed"))
    renewed = _access(credentials)
    assert ("node-1-renewed", False) == (greeted(renewed), renewed.tls is first.tls)
    assert _access(credentials).tls is renewed.tls


def test_links_that_go_round_are_refused(host: Path) -> None:
    """The walk is ours, so the limit is ours."""
    link = host / "var/lib/kubelet/pki/kubelet-client-current.pem"
    link.unlink()
    link.symlink_to("/var/lib/kubelet/pki/kubelet-client-current.pem")
    credentials = KubeconfigFile(host / "etc/kubernetes/kubelet.conf", root=host)
    assert f"{link}: too many symbolic links" in _refusal(credentials)


def test_a_kubeconfig_of_the_pod_may_name_paths_of_the_node(host: Path, tmp_path: Path) -> None:
    """Absolute paths are the node's wherever the file is; relative ones stay beside it."""
    conf = (host / "etc/kubernetes/real.conf").read_bytes().replace(b"/etc/kubernetes/pki/ca.crt", b"ca.crt")
    write(tmp_path / "mounted/ca.crt", (host / "etc/pki/ca.crt").read_bytes())
    credentials = KubeconfigFile(write(tmp_path / "mounted/conf", conf), root=host)
    assert greeted(_access(credentials)) == "node-1"


def test_a_pair_that_does_not_match_is_refused(tmp_path: Path, node_1: Identity, ca: trustme.CA) -> None:
    """As it may be for an instant, when a tool rotates two files one after the other."""
    credentials = _file(tmp_path, user={"client-certificate": "cert.pem", "client-key": "key.pem"})
    cert, key = write(tmp_path / "cert.pem", node_1.certificate), write(tmp_path / "key.pem", node_1.key)
    _access(credentials)
    other = identity(ca, "node-2")
    write(cert, other.certificate)
    expected = f"client-certificate {cert} and client-key {key}: client certificate and private key do not"
    assert expected in _refusal(credentials)
    write(key, other.key)
    _access(credentials)


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path, node_1: Identity) -> None:
    """OpenSSL would ask on the terminal."""
    key = load_pem_private_key(node_1.key, password=None)
    protection = BestAvailableEncryption(CANARY.encode())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    user = node_1.inline | {"client-key-data": encoded(locked)}
    assert "private key do not parse" in _refusal(_file(tmp_path, user=user))


def test_tokens_and_passwords_make_a_header(tmp_path: Path) -> None:
    """The file goes before the token beside it, as in client-go."""
    write(tmp_path / "token", "from-file\n")
    basic = encoded("admin:pässwörd:1")
    for user, header in (
        ({"token": "inline"}, "Bearer inline"),
        ({"token": "inline\n", "tokenFile": ""}, "Bearer inline"),
        ({"token": "inline", "tokenFile": "token"}, "Bearer from-file"),
        ({"tokenFile": str(tmp_path / "token")}, "Bearer from-file"),
        ({"username": "admin", "password": "pässwörd:1"}, f"Basic {basic}"),
        ({}, None),
    ):
        assert header == _header(_file(tmp_path, user=user))


def test_a_token_file_is_read_for_each_request(tmp_path: Path) -> None:
    """And its place is told when it is gone."""
    credentials = _file(tmp_path, user={"tokenFile": "token"})
    for token in ("first", "second"):
        write(tmp_path / "token", token)
        assert _header(credentials) == f"Bearer {token}"
    (tmp_path / "token").unlink()
    assert f"tokenFile {tmp_path / 'token'}: No such file" in _refusal(credentials)


def test_an_inline_token_of_two_lines_is_refused(tmp_path: Path) -> None:
    """It would be a header of its own."""
    credentials = _file(tmp_path, user={"token": f"{CANARY}\nX-Evil: 1"})
    assert f"kubeconfig {tmp_path / 'kubeconfig'}: token: holds no token" in _refusal(credentials)


# From a kubeconfig: the file itself


def test_a_kubeconfig_may_come_later_break_and_heal(tmp_path: Path) -> None:
    """kubelet's own is written when the node joins; no failure is remembered."""
    path = tmp_path / "later" / "kubeconfig"
    credentials = KubeconfigFile(path)
    assert f"kubeconfig {path}: No such file or directory" in _refusal(credentials)
    write(path, raw(user={"token": "one"}))
    assert _header(credentials) == "Bearer one"
    write(path, b"kind: Config\nusers: [{'")
    assert f"kubeconfig {path}: not valid YAML at line" in _refusal(credentials)
    write(path, raw(user={"token": "two"}))
    assert _header(credentials) == "Bearer two"


def test_the_context_of_the_settings_counts(tmp_path: Path) -> None:
    """For a file that is shared with people."""
    assert _header(_file(tmp_path, user={"token": "t"}, context="here")) == "Bearer t"
    assert "there is no context there; contexts of this file: here" in _refusal(_file(tmp_path, context="there"))


def test_a_proxy_is_passed_on_unseen(tmp_path: Path) -> None:
    """Its URL may hold a password."""
    proxy = f"http://user:{CANARY}@proxy.example:3128"
    access = _access(_file(tmp_path, cluster={"server": SERVER, "proxy-url": proxy}))
    assert (proxy, False) == (access.proxy, CANARY in repr(access))


def test_one_context_serves_all_threads(tmp_path: Path, ca: trustme.CA) -> None:
    """Connections are pooled by it; two requests that start at once must share it."""
    cluster = {"server": SERVER, "certificate-authority-data": encoded(pem(ca))}
    credentials = _file(tmp_path, cluster=cluster)
    start, found = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        found.append(_access(credentials).tls)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (8, 1) == (len(found), len({id(context) for context in found}))


def test_nothing_shows_a_secret(tmp_path: Path, node_1: Identity) -> None:
    """Whatever is logged by mistake: the access, its source, or what the source keeps."""
    for user in ({"token": CANARY}, {"username": "u", "password": CANARY}, node_1.inline):
        credentials = _file(tmp_path, user=user)
        said = f"{_access(credentials)!r} {credentials!r} {vars(credentials)!r}"
        key, basic = node_1.key.decode().splitlines()[1], encoded(f"u:{CANARY}")
        secrets = (CANARY, key, encoded(node_1.key)[:40], basic)
        assert not [secret for secret in secrets if secret in said]
