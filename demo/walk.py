"""Walks a real agent through registry switches in two acts: no root, no network, no containerd.

Act one: one node without a cluster, its desired config is a file. Act two: the same in a cluster,
where the API double of the tests stands for the Kubernetes API.
"""

from __future__ import annotations

import sys

import act_one
import act_two
from stage import CHECKOUT, title


def main() -> int:
    """Play both acts; 0 when every step came out as announced."""
    title("ACT ONE: one node, no cluster. The desired config is a file.")
    code = act_one.play()
    title("ACT TWO: the node in a cluster. The desired config is a Secret, and the Node object says what became of it.")
    code = act_two.play() or code
    title("Done. The files are in demo/node and demo/node2; run the agent on the first one yourself:")
    root = act_one.NODE.root.relative_to(CHECKOUT)
    print(f"  .venv/bin/registry-agent run --source file --root {root} &")
    print(f"  .venv/bin/registry-agent status --root {root}")
    print("and act two by hand, with kubectl: see CONTRIBUTING.md")
    return code


if __name__ == "__main__":
    sys.exit(main())
