"""Write every golden case anew: `python -m tests.golden.regenerate`, then review the diff."""

from __future__ import annotations

import shutil

from tests.golden import cases


def main() -> None:
    """Replace the expected files of each case by what the agent makes of it now."""
    for case in cases.CASES:
        folder = cases.ROOT / case
        result = cases.run(case)
        shutil.rmtree(folder / "tree", ignore_errors=True)
        (folder / "expected.toml").write_text(result.expected, encoding="utf-8")
        for name, content in result.files.items():
            path = folder / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        print(f"{case}: {len(result.files)} files")


if __name__ == "__main__":
    main()
