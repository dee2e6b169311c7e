"""The agent writes, real containerd reads, and the registries' access logs say who served."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.node.accounts import PULLER, STRANGER
from tests.node.cri import Cri, PullFailed
from tests.node.daemon import Daemon
from tests.node.desired import document, host, mirror
from tests.node.images import Image
from tests.node.node import Node
from tests.node.pulling import Puller
from tests.node.registry import Registry
from tests.node.waiting import until

# Booting nodes and building roots have limits of their own.
pytestmark = pytest.mark.timeout(120, func_only=True)

Stocked = Callable[..., Image]
PLATFORM = "registry.d8-system.svc:5001"


def test_a_mirror_with_private_ca_and_password_serves(
    cri: Cri, agent: Daemon, mirror_a: Registry, stocked: Stocked
) -> None:
    """The everyday case; the mirror is told which registry was meant."""
    image = stocked(mirror_a)
    agent.apply(document({"registry.test": host(mirror(mirror_a))}))
    cri.pull(f"registry.test/{image.name}")
    assert mirror_a.served(image)
    assert {request.namespace for request in mirror_a.requests(image)} == {"registry.test"}


def test_a_host_with_a_port_is_found(cri: Cri, agent: Daemon, mirror_a: Registry, stocked: Stocked) -> None:
    """The platform's own references have a port, and so has the directory."""
    image = stocked(mirror_a, under="system/deckhouse")
    agent.apply(document({PLATFORM: host(mirror(mirror_a))}))
    cri.pull(f"{PLATFORM}/{image.name}")
    assert mirror_a.served(image)


def test_the_second_mirror_serves_when_the_first_is_down(
    cri: Cri, agent: Daemon, down: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """A refused connection moves on to the next mirror."""
    image = stocked(mirror_b)
    agent.apply(document({"registry.test": host(mirror(down), mirror(mirror_b))}))
    cri.pull(f"registry.test/{image.name}")
    assert mirror_b.served(image)


def test_the_first_of_two_mirrors_serves_alone(
    cri: Cri, agent: Daemon, mirror_a: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """The order of the document is the order of attempts."""
    image = stocked(mirror_a, mirror_b)
    agent.apply(document({"registry.test": host(mirror(mirror_b), mirror(mirror_a))}))
    cri.pull(f"registry.test/{image.name}")
    assert mirror_b.served(image)
    assert mirror_a.requests(image) == ()


def test_a_wrong_ca_fails_closed(
    cri: Cri, agent: Daemon, mirror_a: Registry, upstream: Registry, stocked: Stocked
) -> None:
    """The mirror sees no request, so no password either, and nobody else is asked."""
    image = stocked(mirror_a, upstream)
    wrong = mirror(mirror_a, ca=trustme.CA().cert_pem.bytes().decode())
    agent.apply(document({upstream.address: host(wrong, fallback=False)}))
    refusals = mirror_a.refusals()
    with pytest.raises(PullFailed, match="x509: certificate signed by unknown authority"):
        cri.pull(upstream.reference(image))
    until(lambda: mirror_a.refusals() > refusals, what="the mirror notes the broken handshake")
    assert mirror_a.requests(image) == ()
    assert upstream.requests(image) == ()


def test_skip_verify_needs_no_ca(cri: Cri, agent: Daemon, mirror_a: Registry, stocked: Stocked) -> None:
    """The extension that gives up what the test before asserts."""
    image = stocked(mirror_a)
    agent.apply(document({"registry.test": host(mirror(mirror_a, ca="", skipVerify=True))}))
    cri.pull(f"registry.test/{image.name}")
    assert mirror_a.served(image)


def test_a_mirror_over_plain_http_serves(cri: Cri, agent: Daemon, plain: Registry, stocked: Stocked) -> None:
    """Scheme http: newer versions try TLS first, and then plain HTTP all the same."""
    image = stocked(plain)
    agent.apply(document({"registry.test": host(mirror(plain, scheme="http"))}))
    cri.pull(f"registry.test/{image.name}")
    assert plain.served(image)


def test_capabilities_share_the_work(
    cri: Cri, agent: Daemon, mirror_a: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """A mirror that may not resolve is passed over for the tag, and asked first for the content."""
    image = stocked(mirror_a, mirror_b)
    agent.apply(document({"registry.test": host(mirror(mirror_a, capabilities=["pull"]), mirror(mirror_b))}))
    cri.pull(f"registry.test/{image.name}")
    assert {request.method for request in mirror_a.requests(image)} == {"GET"}
    assert {request.method for request in mirror_b.requests(image)} == {"HEAD"}


def test_in_a_transition_the_old_and_the_new_host_serve(
    cri: Cri, agent: Daemon, mirror_a: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """Unmanaged to Direct: both names work at once, each by its own mirror."""
    old, new = stocked(mirror_a), stocked(mirror_b, under="system/deckhouse")
    hosts = {mirror_a.address: host(mirror(mirror_a)), PLATFORM: host(mirror(mirror_b))}
    agent.apply(document(hosts))
    cri.pull(mirror_a.reference(old))
    cri.pull(f"{PLATFORM}/{new.name}")
    assert mirror_a.served(old)
    assert mirror_b.served(new)
    assert mirror_a.requests(new) == mirror_b.requests(old) == ()


def test_in_a_transition_of_one_host_the_new_mirror_fills_in(
    cri: Cri, agent: Daemon, mirror_a: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """Direct to Direct: the old mirror is asked first, the new one has what the old lacks."""
    both, only_new = stocked(mirror_a, mirror_b), stocked(mirror_b)
    agent.apply(document({PLATFORM: host(mirror(mirror_a), mirror(mirror_b))}))
    cri.pull(f"{PLATFORM}/{both.name}")
    cri.pull(f"{PLATFORM}/{only_new.name}")
    assert mirror_a.served(both)
    assert mirror_b.requests(both) == ()
    assert {request.status for request in mirror_a.requests(only_new)} == {404}
    assert mirror_b.served(only_new)


def test_default_serves_the_hosts_that_have_no_entry(
    cri: Cri, agent: Daemon, mirror_a: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """`_default` is the wildcard, and a host's own entry goes before it."""
    named, any_other = stocked(mirror_a, mirror_b), stocked(mirror_a, mirror_b)
    hosts = {"registry.test": host(mirror(mirror_a)), "_default": host(mirror(mirror_b))}
    agent.apply(document(hosts))
    cri.pull(f"registry.test/{named.name}")
    cri.pull(f"elsewhere.test/{any_other.name}")
    assert mirror_a.served(named)
    assert mirror_b.requests(named) == ()
    assert mirror_b.served(any_other)
    assert {request.namespace for request in mirror_b.requests(any_other)} == {"elsewhere.test"}


def test_containerd_falls_back_to_the_original_registry(
    cri: Cri, agent: Daemon, mirror_a: Registry, upstream: Registry, stocked: Stocked
) -> None:
    """What containerd does unless told otherwise: the next test's contrast."""
    image = stocked(upstream)
    agent.apply(document({upstream.address: host(mirror(mirror_a))}))
    cri.pull(upstream.reference(image))
    assert {request.status for request in mirror_a.requests(image)} == {404}
    assert upstream.served(image)


def test_without_fallback_the_original_registry_is_never_asked(
    cri: Cri, agent: Daemon, mirror_a: Registry, upstream: Registry, stocked: Stocked
) -> None:
    """`fallback: false`: the original registry has the image, and yet the pull fails."""
    image = stocked(upstream)
    agent.apply(document({upstream.address: host(mirror(mirror_a), fallback=False)}))
    with pytest.raises(PullFailed, match="not found"):
        cri.pull(upstream.reference(image))
    assert {request.status for request in mirror_a.requests(image)} == {404}
    assert upstream.requests(image) == ()


def test_without_fallback_a_mirror_that_is_down_fails_the_pull(
    cri: Cri, agent: Daemon, down: Registry, upstream: Registry, stocked: Stocked
) -> None:
    """The same when there is no answer at all."""
    image = stocked(upstream)
    agent.apply(document({upstream.address: host(mirror(down), fallback=False)}))
    with pytest.raises(PullFailed, match="connection refused"):
        cri.pull(upstream.reference(image))
    assert upstream.requests(image) == ()


def test_a_server_of_its_own_replaces_the_original_registry(
    cri: Cri, agent: Daemon, mirror_a: Registry, upstream: Registry, stocked: Stocked
) -> None:
    """`server`: the last resort is what the document says."""
    image = stocked(upstream)
    entry = host(mirror(mirror_a), server=f"https://{upstream.address}")
    agent.apply(document({"registry.test": entry}))
    cri.pull(f"registry.test/{image.name}")
    assert {request.status for request in mirror_a.requests(image)} == {404}
    assert upstream.served(image)


def test_a_wrong_password_fails(cri: Cri, agent: Daemon, mirror_a: Registry, stocked: Stocked) -> None:
    """The registry does look at the header that stock containerd sends."""
    image = stocked(mirror_a)
    agent.apply(document({"registry.test": host(mirror(mirror_a, STRANGER), fallback=False)}))
    with pytest.raises(PullFailed):
        cri.pull(f"registry.test/{image.name}")
    assert {request.status for request in mirror_a.requests(image)} == {401}


def test_a_new_password_is_used_from_the_next_pull_on(
    node: Node, agent: Daemon, mirror_a: Registry, stocked: Stocked
) -> None:
    """Rotation takes no restart of containerd."""
    image = stocked(mirror_a)
    started = _containerd_pid(node)
    agent.apply(document({"registry.test": host(mirror(mirror_a, STRANGER), fallback=False)}))
    with pytest.raises(PullFailed):
        node.cri.pull(f"registry.test/{image.name}")
    agent.apply(document({"registry.test": host(mirror(mirror_a, PULLER), fallback=False)}))
    node.cri.pull(f"registry.test/{image.name}")
    assert mirror_a.served(image)
    assert _containerd_pid(node) == started


def test_a_pull_secret_replaces_a_wrong_password(cri: Cri, agent: Daemon, mirror_a: Registry, stocked: Stocked) -> None:
    """A pod's own credentials still work where the node's are out of date."""
    image = stocked(mirror_a)
    agent.apply(document({"registry.test": host(mirror(mirror_a, STRANGER))}))
    cri.pull(f"registry.test/{image.name}", PULLER)
    assert mirror_a.served(image)


def test_a_bearer_registry_takes_stock_credentials_from_containerd_2_1_on(
    node: Node, agent: Daemon, bearer: Registry, stocked: Stocked
) -> None:
    """Before, the header does not reach the token server: only a pull secret helps there."""
    image = stocked(bearer)
    reference = f"registry.test/{image.name}"
    agent.apply(document({"registry.test": host(mirror(bearer), fallback=False)}))
    if _release(node) >= (2, 1):
        node.cri.pull(reference)
    else:
        with pytest.raises(PullFailed, match="failed to fetch anonymous token"):
            node.cri.pull(reference)
        assert not bearer.served(image)
        node.cri.pull(reference, PULLER)
    assert bearer.served(image)


def test_a_client_certificate_is_shown(
    cri: Cri, agent: Daemon, clients: Registry, private_ca: trustme.CA, stocked: Stocked
) -> None:
    """`client`: the registry talks to nobody without one."""
    image = stocked(clients)
    reference = f"registry.test/{image.name}"
    agent.apply(document({"registry.test": host(mirror(clients, None))}))
    with pytest.raises(PullFailed):
        cri.pull(reference)
    mine = private_ca.issue_cert("node.test")
    pair = {
        "cert": mine.cert_chain_pems[0].bytes().decode(),
        "key": mine.private_key_pem.bytes().decode(),
    }
    agent.apply(document({"registry.test": host(mirror(clients, None, client=pair))}))
    cri.pull(reference)
    assert clients.served(image)


def test_pulls_go_on_when_the_agent_is_killed(node: Node, agent: Daemon, mirror_a: Registry, stocked: Stocked) -> None:
    """The files stand by themselves; the agent that comes back finds nothing to do."""
    before, during = stocked(mirror_a), stocked(mirror_a)
    desired = document({"registry.test": host(mirror(mirror_a), fallback=False)})
    agent.apply(desired)
    node.cri.pull(f"registry.test/{before.name}")
    tree = _tree(node)
    agent.kill()
    node.cri.pull(f"registry.test/{during.name}")
    assert mirror_a.served(during)
    agent.apply(desired)
    assert _tree(node) == tree


def test_a_broken_config_changes_nothing(node: Node, agent: Daemon, mirror_a: Registry, stocked: Stocked) -> None:
    """It is refused and reported; what worked goes on working; the next good one is applied."""
    before, after = stocked(mirror_a), stocked(mirror_a)
    entry = host(mirror(mirror_a), fallback=False)
    agent.apply(document({"registry.test": entry}))
    tree = _tree(node)
    agent.publish(document({"registry.test": host(mirror(mirror_a, ca="not a certificate"))}).text)
    until(lambda: not agent.is_ready(), what="the agent refuses the broken config")
    assert _tree(node) == tree
    node.cri.pull(f"registry.test/{before.name}")
    assert mirror_a.served(before)
    agent.apply(document({"registry.test": entry, PLATFORM: entry}))
    node.cri.pull(f"{PLATFORM}/{after.name}")
    assert mirror_a.served(after)


def test_no_pull_fails_while_the_modes_switch(
    node: Node, agent: Daemon, mirror_a: Registry, mirror_b: Registry, stocked: Stocked
) -> None:
    """Unmanaged, transition, Direct: pulls never pause, and the runtime never restarts."""
    image = stocked(mirror_a, mirror_b, under="system/deckhouse")
    old, new = mirror_a.reference(image), f"{PLATFORM}/{image.name}"
    old_entry = {mirror_a.address: host(mirror(mirror_a))}
    new_entry = {PLATFORM: host(mirror(mirror_b))}
    unmanaged = document(old_entry, mode="Unmanaged")
    transition, direct = document(old_entry | new_entry), document(new_entry)
    started = _containerd_pid(node)
    agent.apply(unmanaged)
    with Puller(node.cri, old) as puller:
        puller.wait(3)
        for _ in range(2):
            agent.apply(transition)
            puller.use(old, new)
            puller.use(new)
            agent.apply(direct)
            puller.wait(3)
            agent.apply(transition)
            puller.use(new, old)
            puller.use(old)
            agent.apply(unmanaged)
            puller.wait(3)
    assert puller.failures == []
    assert puller.rounds > 40
    # A fallback would have failed: these names lead to registries that ask for the password.
    for registry in (mirror_a, mirror_b):
        assert {request.status for request in registry.requests(image)} == {200}
    assert _containerd_pid(node) == started


def _containerd_pid(node: Node) -> str:
    """Return the pid of the node's containerd, which every restart changes."""
    return node.run("systemctl", "show", "--property=MainPID", "containerd.service")


def _release(node: Node) -> tuple[int, ...]:
    """Return the node's containerd version in a form that compares."""
    return tuple(int(part) for part in node.containerd.split("."))


def _tree(node: Node) -> dict[Path, tuple[bytes, int]]:
    """Return the content and time of each file in registry.d."""
    top = node.root / "etc/containerd/registry.d"
    files = (path for path in top.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
