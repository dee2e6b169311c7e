"""The floors: what Python without the agent needs for the same effect on the same disk."""

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

#: A directory, the files that are written to it one by one, and then one fsync of the directory.
Group = tuple[str, Mapping[str, bytes]]

IN_MOVED_TO = 0x80

_READY = """
    print("ready", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
LOOP = f"import asyncio\nasync def main():{_READY}"
LIBRARIES = f"import aiohttp.web, jinja2, prometheus_client, pydantic, re2, tomlkit, watchdog.observers, yaml\n{LOOP}"
SERVER = f"""
import asyncio, sys
from aiohttp import ClientSession, web
async def main():
    runner = web.AppRunner(web.Application(), handle_signals=False, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, sys.argv[1]).start(){_READY}"""

#: The same with two watches of the API open over TLS: what a kubeconfig in JSON and two paths say.
WATCHES = f"""
import asyncio, base64, json, ssl, sys
from aiohttp import ClientSession, web
_, socket, kubeconfig, *paths = sys.argv
config = json.load(open(kubeconfig))
cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
tls.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
async def main():
    runner = web.AppRunner(web.Application(), handle_signals=False, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    session = ClientSession(cluster["server"], headers={{"Authorization": "Bearer " + user["token"]}})
    kept = [await session.get(path, ssl=tls) for path in paths]{_READY}"""


def read_all(paths: Iterable[str]) -> None:
    """Stat and read every file."""
    for path in paths:
        os.stat(path)
        with open(path, "rb", buffering=0) as file:
            file.read()


def write_all(root: Path, groups: Iterable[Group]) -> None:
    """Write every file durably: temporary file, fsync, rename; then fsync of the directory."""
    for directory, files in groups:
        os.makedirs(root / directory, exist_ok=True)
        for name, content in files.items():
            temporary = f"{root}/{directory}/.temporary"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, content)
            os.fsync(descriptor)
            os.close(descriptor)
            os.rename(temporary, f"{root}/{directory}/{name}")
        descriptor = os.open(root / directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def written(root: Path, registry: str, state: str, *, is_edit: bool) -> list[Group]:
    """Return what an apply has written below `root`, or what an edit of every host writes there."""

    def group(directory: str, *names: str) -> Group:
        return directory, {name: (root / directory / name).read_bytes() for name in names}

    hosts = sorted(path for path in (root / registry).iterdir() if path.is_dir())
    if is_edit:
        return [group(state, "last-good.yaml"), *(group(f"{registry}/{host.name}", "hosts.toml") for host in hosts)]
    records = [group(state, "last-good.yaml"), group(state, "ownership.json")]
    records += [group(registry, "deckhouse_hosts_state.json"), group(registry)]
    return [*(group(f"{registry}/{host.name}", *sorted(os.listdir(host))) for host in hosts), *records]


def follow(root: Path, source: Path, groups: list[Group]) -> None:
    """Write the same files again whenever the source is replaced; print its last line when they are durable."""
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(descriptor, os.fsencode(source.parent), IN_MOVED_TO)
    print("ready", flush=True)
    while True:
        os.read(descriptor, 65536)
        last_line = source.read_text().splitlines()[-1]
        write_all(root, groups)
        print(last_line, flush=True)


if __name__ == "__main__":
    _model, _root, _source, _registry, _state = sys.argv[1:]
    write_all(Path(_root), written(Path(_model), _registry, _state, is_edit=False))
    follow(Path(_root), Path(_root, _source), written(Path(_model), _registry, _state, is_edit=True))
