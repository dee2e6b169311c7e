"""Builds the Debian package: one tree for every Python in PYTHONS, and the same bytes each time.

Needs the network for wheels; what it makes needs none. SOURCE_DATE_EPOCH is the date of all that is in it.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import itertools
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import completion
import manual

from agent import __version__

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

#: Debian 12, 13 and unstable. README.md says how one tree serves all of them.
PYTHONS = ("3.11", "3.13", "3.14")
#: Both run on Debian 12's glibc, 2.36; newer tags might not.
PLATFORMS = tuple(f"{tag}_{platform.machine()}" for tag in ("manylinux_2_17", "manylinux_2_28"))
#: The rest of a wheel is sources of what is compiled, types and metadata.
WANTED = {".py", ".so", ".j2"}
EXECUTABLE, PLAIN = 0o755, 0o644
LIBRARY = "usr/lib/registry-agent"
DOCS = "usr/share/doc/registry-agent"


def main(out: Path = PROJECT / "dist") -> None:
    """Build registry-agent_VERSION_ARCHITECTURE.deb in a directory."""
    made_at = int(os.environ["SOURCE_DATE_EPOCH"])
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        for wheels in _installed(Path(folder)):
            _merge(wheels, root)
        # Debug information is half of what the compiled files weigh.
        _run("strip", "--strip-unneeded", *map(str, root.rglob("*.so")))
        _put_own(root, dt.datetime.fromtimestamp(made_at, dt.UTC))
        _put_control(root)
        for path in (root, *root.rglob("*")):
            os.utime(path, (made_at, made_at))
        out.mkdir(exist_ok=True)
        package = out / f"registry-agent_{__version__}_{_architecture()}.deb"
        # Several threads would cut the data into blocks, and the bytes depend on how.
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", str(root), str(package))


def _installed(folder: Path) -> Iterator[Path]:
    """Yield for each Python a directory with the agent and all that it needs."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder / "wheel"), str(PROJECT))
    (wheel,) = (folder / "wheel").iterdir()
    for python in PYTHONS:
        target = folder / python
        tags = [f"--platform={tag}" for tag in PLATFORMS]
        terms = ["--only-binary=:all:", "--no-compile", f"--python-version={python}", *tags]
        _pip("install", "--target", str(target), *terms, str(wheel))
        yield target


def _merge(wheels: Path, root: Path) -> None:
    """Add one Python's files to the tree. Compiled ones bear their Python in the name; the others must be equal."""
    for path in sorted(wheels.rglob("*")):
        relative = path.relative_to(wheels)
        if relative.parts[0].endswith(".dist-info"):
            _merge_license(path, relative, root)
        elif path.suffix in WANTED and "_test" not in path.name and path.is_file():
            target = root / LIBRARY / relative
            if target.exists() and target.read_bytes() != path.read_bytes():
                raise SystemExit(f"{relative} is not the same for every Python of {PYTHONS}")
            _put(target, path.read_bytes())


def _merge_license(path: Path, relative: Path, root: Path) -> None:
    if path.is_file() and path.name.upper().startswith(("LICEN", "NOTICE", "COPYING", "AUTHORS")):
        distribution, *folders = relative.parts[0].partition("-")[0], *relative.parts[1:]
        inner = Path(*(folder for folder in folders if folder != "licenses"))
        _put(root / DOCS / "licenses" / distribution / inner, path.read_bytes())


def _put_own(root: Path, date: dt.datetime) -> None:
    _put(root / "usr/bin/registry-agent", (HERE / "registry-agent").read_bytes(), EXECUTABLE)
    hook = "usr/share/python3/runtime.d/registry-agent.rtupdate"
    _put(root / hook, (HERE / "registry-agent.rtupdate").read_bytes(), EXECUTABLE)
    _put(root / "etc/registry-agent/config.toml", (HERE / "config.toml").read_bytes())
    unit = "registry-agent.service"
    _put(root / "usr/lib/systemd/system" / unit, (PROJECT / "systemd" / unit).read_bytes())
    page = manual.page(date=f"{date:%Y-%m-%d}").encode()
    _put(root / "usr/share/man/man8/registry-agent.8.gz", gzip.compress(page, mtime=0))
    _put(root / "usr/share/bash-completion/completions/registry-agent", completion.script().encode())
    _put(root / "usr/share/lintian/overrides/registry-agent", (HERE / "lintian-overrides").read_bytes())
    entry = (HERE / "changelog.in").read_text().format(version=__version__, date=f"{date:%a, %d %b %Y %T} +0000")
    _put(root / DOCS / "changelog.gz", gzip.compress(entry.encode(), mtime=0))
    _put(root / DOCS / "CHANGELOG.md.gz", gzip.compress((PROJECT / "CHANGELOG.md").read_bytes(), mtime=0))
    _put(root / DOCS / "copyright", (HERE / "copyright").read_bytes())


def _put_control(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    size_kib = sum(-(-path.stat().st_size // 1024) for path in files)
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
    ]
    control = (
        (HERE / "control.in")
        .read_text()
        .format(version=__version__, architecture=_architecture(), size_kib=size_kib, pythons=_dependency())
    )
    _put(root / "DEBIAN/control", control.encode())
    _put(root / "DEBIAN/conffiles", b"/etc/registry-agent/config.toml\n")
    _put(root / "DEBIAN/md5sums", "".join(sums).encode())
    for script in ("postinst", "prerm", "postrm"):
        _put(root / "DEBIAN" / script, (HERE / script).read_bytes(), EXECUTABLE)


def _dependency() -> str:
    """Say PYTHONS in Debian's terms: from the first to the last, without the gaps between them."""
    minors = [int(python.partition(".")[2]) for python in PYTHONS]
    gaps = [(low + 1, high) for low, high in itertools.pairwise(minors) if low + 1 < high]
    between = "".join(f"python3 (<< 3.{low}~) | python3 (>= 3.{high}~), " for low, high in gaps)
    return f"python3 (>= 3.{minors[0]}~), {between}python3 (<< 3.{minors[-1] + 1}~)"


def _architecture() -> str:
    return _run("dpkg", "--print-architecture").strip()


def _put(path: Path, content: bytes, mode: int = PLAIN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _pip(*arguments: str) -> None:
    _run(sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT).stdout


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
