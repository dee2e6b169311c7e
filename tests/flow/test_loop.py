"""The loop around the passes: what it publishes and what it logs, and what it keeps to itself."""

import json
from pathlib import Path

import pytest

from agent.board import Board, Posted
from agent.daemon import Loop
from agent.desired import Reading
from agent.drift import FileWatcher
from agent.log import ReportLog
from agent.metrics import Metrics
from agent.outcome import Standing
from agent.report import as_json
from agent.settings import Settings
from tests.support import configs, folders
from tests.support.folders import Folder
from tests.support.passes import Passes, ScriptedSource

RETRY_S = 3.0


class DefectiveSource(ScriptedSource):
    """Fails as nothing but a defect of the agent fails."""

    async def read(self, *, is_confirming: bool) -> Reading:  # noqa: ARG002
        raise ValueError(configs.CANARY)


async def _published(passes: Passes) -> tuple[Posted, float]:
    """Run one pass through a loop of its own; return what was posted and when the next pass is planned."""
    settings = Settings(root=passes.node.root, retry_min_s=RETRY_S)
    board = Board(pass_timeout_s=settings.pass_timeout_s)
    loop = Loop(
        settings,
        reconciler=passes.reconciler,
        watcher=FileWatcher(tuple, lambda: None),
        board=board,
        metrics=Metrics(),
        log=ReportLog(),
        publish=lambda _report: None,
    )
    next_in_s = await loop.run_pass("test")
    assert board.posted is not None
    return board.posted, next_in_s


def _told(posted: Posted) -> str:
    return f"{posted!r} {json.dumps(as_json(posted.report))} {[str(error) for error in posted.report.errors]}"


async def test_a_defect_of_the_agent_is_an_outcome(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not ready, tried again, said in the log without a word of the error's text; nothing on the node changes."""
    caplog.set_level("DEBUG")
    posted, next_in_s = await _published(Passes(tmp_path, source=DefectiveSource()))
    report = posted.report
    assert (False, "InternalError") == (report.verdict.is_ready, report.verdict.reason)
    assert (Standing.UNKNOWN, "unknown", RETRY_S) == (report.standing, report.applied_version, next_in_s)
    assert "ValueError" in caplog.text
    assert "test_loop.py" in caplog.text, "the log says where the defect is"
    assert configs.CANARY not in caplog.text + _told(posted)
    assert Folder(mode=0o700) == folders.read(tmp_path)


@pytest.mark.parametrize(
    ("mirror", "is_ready"),
    [
        (f"token:{configs.CANARY}", True),
        (f"auth: {{username: robot, password:{configs.CANARY}}}", None),
        (f"auth: {{password:{configs.CANARY}}}", None),
        (f"rewrites: [{{from: a, to: b, password:{configs.CANARY}}}]", True),
        (f"headers: {{Authorization:Bearer {configs.CANARY}}}", False),
        (f'headers: {{"Authorization:Bearer {configs.CANARY}": x}}', False),
        (f"headers: {{Authorization: {{Bearer:{configs.CANARY}}}}}", False),
        (f"client: {{key:{configs.CANARY}}}", False),
    ],
    ids=["unknown", "auth", "only-auth", "rewrite", "header", "header-name", "header-value", "client"],
)
async def test_a_missing_space_in_a_document_betrays_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mirror: str, *, is_ready: bool | None
) -> None:
    """{password:S3CRET} is a key without a value: problems, notices and the log must not quote it as a name."""
    caplog.set_level("DEBUG")
    document = (
        "{mode: Direct, version: v1, imagesBase: r.test/x, "
        f"hosts: {{r.test: {{mirrors: [{{host: m.test, scheme: https, {mirror}}}]}}}}}}"
    )
    passes = Passes(tmp_path)
    passes.source.says(document.encode())
    posted, _ = await _published(passes)
    assert is_ready in {None, posted.report.verdict.is_ready}
    assert posted.report.errors or posted.report.warnings, "nobody has noticed the mistake"
    assert configs.CANARY not in caplog.text + _told(posted)
