"""Act two: a cluster. The walk edits the Secret, as an administrator would, and shows the node and its Node object.

The agent's pauses are shortened, so that nobody has to wait for them: no spread over the nodes
(default 10 s), and a deletion is confirmed after 1 s (default 5 s).
"""

from __future__ import annotations

import json
import re
import textwrap

from cluster import Cluster, Object
from stage import CHECKOUT, HERE, Node, say, title, until

NAME = "worker-1"
PAUSES = ("--rollout-spread-s", "0", "--absent-settle-s", "1")
NODE = Node(HERE / "node2", *PAUSES, environment={"NODE_NAME": NAME})
CLUSTER = Cluster(NODE.root / "etc/kubernetes/kubelet.conf", NAME)
DROP_IN = NODE.root / "etc/containerd/conf.d/mirror.toml"
LEGACY = '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n  endpoint = ["https://mirror.example"]\n'

LABEL = "node.deckhouse.io/containerd-config-registry"
VERSION = "registry.deckhouse.io/version"
SUMMARY = "registry-agent.io/status"
CONDITION = "RegistryConfigReady"

DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
SHORT = r"\1..."
MAX_SHOWN = 80


def play() -> int:
    """Run the act; returns the agent's exit code."""
    NODE.clear()
    CLUSTER.kubeconfig.parent.mkdir(parents=True)
    try:
        CLUSTER.start()
        say("  (an API double, with its kubeconfig where kubelet's would be. The agent's pauses are shortened:")
        say("  no spread over the nodes, default 10 s; a deletion is confirmed after 1 s, default 5 s)")
        NODE.start()
        _await("NotConfigured")
        _walk()
    finally:
        code = NODE.stop()
        CLUSTER.stop()
    return code


def _walk() -> None:
    """Create the Secret, break it, leave a drop-in, lose the API, delete the Secret."""
    title("6. The Secret is created; the node follows, and the Node says so")
    CLUSTER.create_secret(HERE / "direct.yaml")
    _await("InPlace")
    NODE.show_files()
    _show("InPlace", event="RegistryConfigApplied")
    title("7. A broken change is refused; the version that is in place stays, and still is on the Node")
    CLUSTER.replace_secret(HERE / "broken.yaml")
    _show("ConfigInvalid", event="ConfigInvalid")
    CLUSTER.replace_secret(HERE / "direct.yaml")
    _await("InPlace")
    title("8. Somebody leaves an old drop-in: containerd would go by it, so the Node must not name a version")
    say(f"$ cat > {DROP_IN.relative_to(CHECKOUT)} <<EOF\n{LEGACY}EOF")
    DROP_IN.parent.mkdir(parents=True)
    DROP_IN.write_text(LEGACY)
    _show("LegacyRegistryConfig", event="LegacyRegistryConfig")
    say(f"\n$ rm {DROP_IN.relative_to(CHECKOUT)}")
    DROP_IN.unlink()
    _show("InPlace")
    _lose_the_api()
    title("10. The Secret is deleted: it is read once more after the pause, then the node is released")
    CLUSTER.delete_secret()
    _show("NotConfigured", event="RegistryConfigReleased")
    say(f"  files in registry.d: {', '.join(path.name for path in NODE.registry_d.rglob('*'))}")


def _lose_the_api() -> None:
    """Stop the API, restart the agent without it, and bring another API."""
    title("9. The API goes away: the node stays as it is, also when the agent is started anew")
    say("$ kill %1    # the API double")
    CLUSTER.stop()
    NODE.wait_for(lambda status: bool(status["cluster"]["api_error"]))
    NODE.show_readiness()
    say("\n$ kill %2    # the agent")
    NODE.stop()
    NODE.start()
    NODE.wait_for(lambda status: status["reason"] == "LastGoodInPlace")
    NODE.show_readiness()
    title("   The API comes back, with another CA, a Node registered anew and a Secret that was changed meanwhile")
    CLUSTER.start(secret=HERE / "transition.yaml")
    _show("InPlace", event="RegistryConfigApplied")
    NODE.show_readiness()


def _await(reason: str, *, event: str | None = None) -> Object:
    """Wait until the condition has this reason and an Event was sent; returns the Node."""
    until(lambda: {"reasons": _reasons()}, lambda found: event is None or event in found["reasons"])
    return until(CLUSTER.node, lambda node: (_condition(node) or {}).get("reason") == reason)


def _show(reason: str, *, event: str | None = None) -> None:
    """Print what the Node says once its condition has this reason, and the Event that goes with it."""
    node = _await(reason, event=event)
    metadata, condition = node["metadata"], _condition(node) or {}
    summary = json.loads(metadata["annotations"][SUMMARY])
    say(f"\n  Node {NAME}")
    _line("label", f"{LABEL}: {metadata['labels'][LABEL]}")
    _line("annotation", f"{VERSION}: {metadata['annotations'].get(VERSION, '(none)')}")
    _line("annotation", f"{SUMMARY}: {json.dumps(summary)}")
    _line("condition", f"{CONDITION} {condition['status']}, {condition['reason']}: {condition['message']}")
    for sent in CLUSTER.events()[-1:] if event else ():
        message = textwrap.shorten(DIGEST.sub(SHORT, sent["message"]), MAX_SHOWN, placeholder=" ...")
        _line("Event", f"{sent['type']} {sent['reason']}: {message}")


def _line(kind: str, text: str) -> None:
    """Print one fact about the Node, with versions cut short."""
    say(f"    {kind:<12}{DIGEST.sub(SHORT, text)}", indent=" " * 16)


def _reasons() -> list[str]:
    return [event["reason"] for event in CLUSTER.events()]


def _condition(node: Object) -> Object | None:
    return next((found for found in node["status"]["conditions"] if found["type"] == CONDITION), None)
