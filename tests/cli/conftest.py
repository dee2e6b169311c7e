"""The command line, called like a function, in a clean environment."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.settings import options
from tests.support import configs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs one command; whatever it prints, it never prints a traceback or the canary."""
    for option in options():
        monkeypatch.delenv(option.variable, raising=False)

    def run(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as err:  # argparse ends by itself for --help and wrong usage
            code = int(err.code or 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert configs.CANARY not in printed.out + printed.err
        return Ended(code=code, out=printed.out, err=printed.err)

    return run


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Return a file with a good config of two hosts."""
    path = tmp_path / "desired.yaml"
    path.write_bytes(configs.simple("v1", hosts=2))
    return path
