"""Act one: no cluster. The walk edits the agent's source file, as a person would, and shows what follows."""

from __future__ import annotations

import shutil
from pathlib import Path

from stage import CHECKOUT, HERE, Node, Status, say, title, version_of

NODE = Node(HERE / "node", "--source", "file")
SOURCE = NODE.root / "etc/registry-agent/desired.yaml"


def play() -> int:
    """Run the act; returns the agent's exit code."""
    NODE.clear()
    SOURCE.parent.mkdir(parents=True)
    NODE.start()
    try:
        NODE.wait_for(lambda status: status["reason"] == "NotConfigured")
        _walk()
    finally:
        code = NODE.stop()
    return code


def _walk() -> None:
    """Unmanaged, transition, Direct, a broken config, drift."""
    title("1. Unmanaged: images come from the old registry; the node gets its credentials")
    _show(_apply("unmanaged"))
    title("2. Transition: old and new registry side by side, so that no pull can fail")
    _show(_apply("transition"))
    title("3. Direct: only the new registry; the old host's directory is gone")
    _show(_apply("direct"))
    title("4. A broken config is refused as a whole; the node keeps the last good one")
    _put(HERE / "broken.yaml")
    _show(NODE.wait_for(lambda status: status["reason"] == "ConfigInvalid"))
    _apply("direct")
    title("5. Drift: somebody empties hosts.toml and deletes the CA; the agent puts both back")
    number = _drift()
    _show(NODE.wait_for(lambda status: status["last_pass"]["number"] > number and status["ready"] and _is_whole()))


def _apply(name: str) -> Status:
    """Put demo/NAME.yaml in place as the desired config and wait until the node is so."""
    document = HERE / f"{name}.yaml"
    _put(document)
    return NODE.wait_for(lambda status: status["ready"] and status["applied_version"] == version_of(document))


def _put(document: Path) -> None:
    """Replace the source file at once, as an editor does."""
    say(f"$ cp {document.relative_to(CHECKOUT)} {SOURCE.relative_to(CHECKOUT)}")
    temporary = SOURCE.with_suffix(".new")
    shutil.copyfile(document, temporary)
    temporary.rename(SOURCE)


def _drift() -> int:
    """Damage the managed files; returns the number of the last pass before."""
    number = int(NODE.ask("/status")[1]["last_pass"]["number"])
    for path in sorted(NODE.registry_d.glob("*/*")):
        say(f"$ {'rm' if path.suffix == '.crt' else 'truncate -s 0'} {path.relative_to(CHECKOUT)}")
        path.unlink() if path.suffix == ".crt" else path.write_bytes(b"")
    return number


def _is_whole() -> bool:
    """Tell whether no managed file is missing or empty."""
    files = {path.suffix: path.stat().st_size for path in NODE.registry_d.glob("*/*")}
    return bool(files.get(".crt")) and bool(files.get(".toml"))


def _show(status: Status) -> None:
    NODE.show_files()
    NODE.show_readiness()
    if status["errors"]:
        say(f"  still in place: version {status['applied_version'][:12]}...")
