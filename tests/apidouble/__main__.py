"""The API double as a program, for kubectl and for agents by hand: ``python -m tests.apidouble --kubeconfig FILE``."""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from tests.apidouble.cluster import Cluster
from tests.apidouble.server import ApiDouble


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tests.apidouble", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="where to write the kubeconfig")
    parser.add_argument("--token", default="", help="the only bearer token that is let in; default: everybody is")
    parser.add_argument("--node", action="append", default=[], metavar="NAME", help="a Node to begin with")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="a document to put into the Secret; further ones replace it",
    )
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    cluster = Cluster()
    for number, name in enumerate(options.node):
        cluster.add_node(name, internal_ip=f"10.0.{number // 200}.{number % 200 + 11}")
    for path in options.secret:
        cluster.put_secret(await asyncio.to_thread(path.read_bytes))
    async with ApiDouble(cluster, tls=not options.plain, port=options.port) as double:
        if options.token:
            double.tokens[options.token] = "kubernetes-admin"
        double.write_kubeconfig(options.kubeconfig, token=options.token)
        print(double.url)
        print(f"kubectl --kubeconfig {options.kubeconfig} get nodes,secrets,events -A", flush=True)
        await _ended()


async def _ended() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    with contextlib.suppress(asyncio.CancelledError):
        await ended.wait()


if __name__ == "__main__":
    main()
