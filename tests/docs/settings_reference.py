"""Writes docs/settings.md from the settings object; `make docs` runs it, a test keeps it true."""

from agent.settings import CONFIG_FILE, options

HEAD = f"""\
# Settings

Made from `agent/settings.py` by `make docs`. Each setting is a flag of `registry-agent run` and `diff`, an
environment variable, and a key of the settings file `{CONFIG_FILE}` (TOML) below the root. Flags win over the
environment, the environment over the file. Paths are as the node sees them and lie below `root`.

| setting | default | flag and environment | meaning, unit and reason |
|---|---|---|---|
"""


def reference() -> str:
    """Return the whole page."""
    rows = (
        f"| `{option.name}` | {f'`{option.default}`' if option.default else 'empty'} "
        f"| `{option.flag}` `{option.variable}` | {option.description} |\n"
        for option in options()
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(reference(), end="")
