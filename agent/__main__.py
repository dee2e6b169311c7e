"""Lets ``python -m agent`` do what the command ``registry-agent`` does."""

import sys

from agent.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
