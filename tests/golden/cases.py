"""The golden cases: a Secret and a node in, a tree or a refusal out.

CASE/secret.yaml   the Secret as an operator sees it
CASE/node.toml     flavour, containerd (version), node_ip; what is absent is unknown
CASE/expected.toml the notices, and the refusal or each file with its mode, in writing order
CASE/tree/         the files' bytes
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError
from agent.parse.document import parse
from agent.parse.secret import from_file
from agent.render import toml_string
from agent.runtime import Flavour
from tests.support import rendering

ROOT = Path(__file__).parent
CASES = tuple(sorted(path.parent.name for path in ROOT.glob("*/secret.yaml")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a case comes to: the text of expected.toml and the bytes below tree/."""

    expected: str
    files: dict[str, bytes]


def run(case: str) -> Result:
    """Take the Secret of a case down the agent's own road."""
    folder = ROOT / case
    node = tomllib.loads((folder / "node.toml").read_text(encoding="utf-8"))
    target = rendering.target(
        Flavour(node["flavour"]), node.get("containerd"), node_ip=node.get("node_ip"), origin=rendering.ORIGIN
    )
    try:
        parsed = parse(from_file((folder / "secret.yaml").read_bytes()))
        rendered = rendering.RENDERER.render(parsed.config, target)
    except AgentError as err:
        return Result(expected=f"refused = {toml_string(err.reason)}\nmessage = {toml_string(str(err))}\n", files={})
    notices = "".join(f"  {toml_string(one.message)},\n" for one in (*parsed.notices, *rendered.notices))
    files = list(rendered.tree.files())
    modes = "".join(f"{toml_string(str(path))} = {toml_string(f'{file.mode:04o}')}\n" for path, file in files)
    return Result(
        expected=f"notices = [\n{notices}]\n\n[modes]\n{modes}" if notices else f"notices = []\n\n[modes]\n{modes}",
        files={str(path): file.content for path, file in files},
    )


def stored(case: str) -> Result:
    """Read what was reviewed and committed."""
    folder = ROOT / case
    tree = folder / "tree"
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    return Result(
        expected=(folder / "expected.toml").read_text(encoding="utf-8"),
        files={str(path.relative_to(tree)): path.read_bytes() for path in files},
    )
