"""One node per containerd generation, and the registries that all of them share."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.node import images, package, registry, roots, tokens
from tests.node import starts as starts_of
from tests.node.accounts import PULLER
from tests.node.cri import Cri
from tests.node.daemon import Daemon, new_on
from tests.node.images import Image
from tests.node.node import CONFIG_TOML, Node, booted
from tests.node.package import Package
from tests.node.registry import Registry
from tests.node.starts import Starts, witnessed
from tests.node.waiting import until

NAMES = (
    "bearer.test",
    "clients.test",
    "down.test",
    "elsewhere.test",
    "mirror-a.test",
    "mirror-b.test",
    "mirror-c.test",
    "plain.test",
    "registry.d8-system.svc",
    "registry.test",
    "tokens.test",
    "upstream.test",
)
"""Names for 127.0.0.1: containerd would treat the address itself and localhost specially."""

VERSIONS = pytest.StashKey[dict[str, str]]()
MEASURED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the containerd versions and what was measured for the summary."""
    config.stash[VERSIONS] = {}
    config.stash[MEASURED] = []
    config.addinivalue_line("markers", "only(suite): what one generation of containerd proves for all of them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop what another generation proves."""
    items[:] = [item for item in items if _is_wanted(item)]


def _is_wanted(item: pytest.Item) -> bool:
    only = item.get_closest_marker("only")
    return only is None or item.callspec.params["root"].name in only.args  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which containerd the nodes ran, as sid moves, and what was measured."""
    for suite, version in config.stash[VERSIONS].items():
        terminalreporter.write_line(f"{suite}: containerd {version}")
    for line in config.stash[MEASURED]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """Require root rights and the packages before anything else starts."""
    roots.require_machine()


@pytest.fixture(scope="session")
def private_ca() -> trustme.CA:
    """Return the CA of the mirrors, which no node trusts by itself."""
    return trustme.CA(organization_name="private")


@pytest.fixture(scope="session")
def public_ca() -> trustme.CA:
    """Return a CA that every node trusts, as the world's registries have one."""
    return trustme.CA(organization_name="public")


@pytest.fixture(scope="session", params=roots.SUITES, ids=lambda suite: suite.name)
def root(request: pytest.FixtureRequest) -> roots.Root:
    """Return the root of one generation; all tests of one are done before those of the next."""
    suite: roots.Suite = request.param
    root = roots.pristine(suite)
    request.config.stash[VERSIONS][suite.name] = root.containerd
    return root


@pytest.fixture(scope="session")
def node(root: roots.Root, public_ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Run a node of one generation."""
    folder = tmp_path_factory.mktemp(root.path.name)
    name, trusted = f"ra-{root.path.name}-{os.getpid()}", public_ca.cert_pem.bytes()
    with booted(root, folder, name=name, names=NAMES, trusted=trusted) as running:
        assert running.cri.version()[1].startswith(root.containerd)
        yield running


@pytest.fixture(scope="module")
def neighbour(root: roots.Root, public_ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Run another node of the same generation."""
    folder = tmp_path_factory.mktemp("neighbour")
    name, trusted = f"ra-neighbour-{os.getpid()}", public_ca.cert_pem.bytes()
    with booted(root, folder, name=name, names=NAMES, trusted=trusted) as running:
        yield running


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[str]:
    """Return a list whose lines are shown in the end; nothing is asserted on them."""
    return request.config.stash[MEASURED]


@pytest.fixture
def cri(node: Node) -> Cri:
    """Return the node's runtime as the kubelet sees it."""
    return node.cri


@pytest.fixture(scope="module")
def _usual_containerd(node: Node) -> Iterator[None]:
    """Let containerd run with the usual config.toml again once a module is done with this node."""
    yield
    starts_of.restart(node)
    until(lambda: starts_of.answers(node), what="containerd")


@pytest.fixture
def config_toml(node: Node, _usual_containerd: None) -> Iterator[Path]:
    """Return config.toml, for tests that restart containerd; what they leave there and beside it is put right."""
    path = node.root / starts_of.CONFIG
    yield path
    path.write_text(CONFIG_TOML)
    path.chmod(0o644)
    os.chown(path, 0, 0)
    node.run("rm", "-rf", "/etc/containerd/conf.d")


@pytest.fixture
def starts(node: Node, config_toml: Path) -> Iterator[Starts]:
    """Witness containerd's starts; the unit is its own again before the last one."""
    assert config_toml.exists()
    with witnessed(node) as witness:
        yield witness


@pytest.fixture
def agent(node: Node) -> Iterator[Daemon]:
    """Return an agent that has never run on this node."""
    with new_on(node) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def deb() -> Path:
    """Return the package that `make deb` has built."""
    return package.built()


@pytest.fixture(scope="session")
def following(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same package with a higher version."""
    return package.following(deb, tmp_path_factory.mktemp("following"))


@pytest.fixture(scope="module")
def _purged(node: Node) -> Iterator[None]:
    """Leave the node as if the package had never been there."""
    yield
    node.run("dpkg", "--purge", "registry-agent")
    node.run("rm", "-rf", "/etc/registry-agent", "/var/lib/registry-agent")


@pytest.fixture(name="package")
def installed(node: Node, deb: Path, _purged: None) -> Iterator[Package]:
    """Return the package, installed; afterwards the agent is stopped, and the node has none of its files."""
    found = Package(node, deb)
    found.drop_in("quick", package.QUICK)
    if not found.is_installed():
        found.install()
    yield found
    if found.is_installed():
        node.run("systemctl", "stop", package.UNIT)
    node.run("sh", "-c", f"rm -rf /{package.DROP_INS} && systemctl daemon-reload")
    node.run("rm", "-rf", "/etc/containerd/registry.d", "/etc/registry-agent/desired.yaml", "/var/lib/registry-agent")
    (node.root / "etc/containerd/config.toml").write_text(CONFIG_TOML)
    starts_of.restart(node)


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the registries."""
    return tmp_path_factory.mktemp("registries")


@pytest.fixture(scope="session")
def mirror_a(storage: Path, private_ca: trustme.CA) -> Iterator[Registry]:
    """Run a mirror with a private CA, for those with the password only."""
    folder = storage / "a"
    with registry.serving("mirror-a.test", folder, private_ca, account=PULLER) as running:
        yield running


@pytest.fixture(scope="session")
def mirror_b(storage: Path, private_ca: trustme.CA) -> Iterator[Registry]:
    """Run another mirror of the same kind."""
    folder = storage / "b"
    with registry.serving("mirror-b.test", folder, private_ca, account=PULLER) as running:
        yield running


@pytest.fixture(scope="session")
def upstream(storage: Path, public_ca: trustme.CA) -> Iterator[Registry]:
    """Run the original registry: every node trusts it, and it asks for no password."""
    with registry.serving("upstream.test", storage / "upstream", public_ca) as running:
        yield running


@pytest.fixture
def down(storage: Path) -> Iterator[Registry]:
    """Return a registry that refuses every connection."""
    with registry.address("down.test", storage / "down") as nobody:
        yield nobody


@pytest.fixture
def bearer(mirror_a: Registry, tmp_path: Path, private_ca: trustme.CA, public_ca: trustme.CA) -> Iterator[Registry]:
    """Serve the images of `mirror_a` behind a Bearer challenge, as vendors' registries have it."""
    folder = tmp_path / "bearer"
    with (
        tokens.issuing("tokens.test", tmp_path / "tokens", public_ca, PULLER) as server,
        registry.serving("bearer.test", folder, private_ca, auth=server.auth(), behind=mirror_a) as running,
    ):
        yield running


@pytest.fixture
def clients(mirror_a: Registry, tmp_path: Path, private_ca: trustme.CA) -> Iterator[Registry]:
    """Serve the images of `mirror_a` to those with a client certificate."""
    folder = tmp_path / "clients"
    with registry.serving("clients.test", folder, private_ca, client_ca=private_ca, behind=mirror_a) as running:
        yield running


@pytest.fixture
def plain(mirror_a: Registry, tmp_path: Path) -> Iterator[Registry]:
    """Serve the images of `mirror_a` over plain HTTP, for the same account."""
    with registry.serving("plain.test", tmp_path / "plain", None, account=PULLER, behind=mirror_a) as running:
        yield running


_numbers = itertools.count(1)


@pytest.fixture
def stocked(tmp_path: Path) -> Callable[..., Image]:
    """Return a function that makes a new image and pushes it to the registries which it is given."""

    def push(*registries: Registry, under: str = "team") -> Image:
        number = next(_numbers)
        image = images.write(tmp_path / f"image-{number}", repository=f"{under}/app-{number}")
        for each in registries:
            each.push(image)
        return image

    return push
