"""What the journal gets from the agent, and what a person does."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging, os, sys
from agent import stderr
from agent.errors import SettingsInvalid

handler = logging.StreamHandler()
handler.setFormatter(stderr.formatter(os.environ))
logging.basicConfig(level="DEBUG", handlers=[handler])
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(logging, level)("%s\\n  more", level)
print(stderr.complaint(SettingsInvalid("no space", remedy="make some"), os.environ), file=sys.stderr)
"""

FOR_A_PERSON = """\
DEBUG debug
  more
INFO info
  more
WARNING warning
  more
ERROR error
  more
CRITICAL critical
  more
registry-agent: error: no space
registry-agent: hint: make some
"""
FOR_THE_JOURNAL = """\
<7>debug
<7>  more
<6>info
<6>  more
<4>warning
<4>  more
<3>error
<3>  more
<3>critical
<3>  more
<3>SettingsInvalid: no space; make some
"""


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, FOR_THE_JOURNAL), (1, FOR_A_PERSON)], ids=["journal", "elsewhere"]
)
def test_every_line_for_the_journal_says_how_grave_it_is(offset: int, expected: str) -> None:
    """Only where stderr is the journal's: the variable is inherited also by those who write to a file."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + offset}"}
    with os.fdopen(reading) as said:
        subprocess.run((sys.executable, "-c", PROGRAM), stderr=writing, env=environment, check=True)
        os.close(writing)
        assert expected == said.read()
