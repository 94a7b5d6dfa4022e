"""What stands in the way of a start is said in words."""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from postroad.app.server import with_certificate
from postroad.config import Config
from postroad.serve import supervisor
from postroad.serve.supervisor import StartError, Supervisor


def test_a_folder_that_takes_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("in the way")
    with pytest.raises(StartError, match=r"No certificate can be made in .*tls: File exists"):
        with_certificate(Config(hostname="mx.local.test"), tmp_path)


async def test_a_process_that_cannot_be_had_now_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = asyncio.create_subprocess_exec, [errno.EAGAIN, errno.ENOMEM]

    async def scarce(*command: str, **options: Any) -> asyncio.subprocess.Process:
        if refused:
            raise OSError(refused.pop(), "not now")
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    monkeypatch.setattr(supervisor, "START_AGAIN_S", 0.0)
    child = await Supervisor(Config(), tmp_path, {}, 1, [])._start("worker-0", [sys.executable, "-S", "-c", ""], [])
    assert await child.process.wait() == 0
    assert not refused
