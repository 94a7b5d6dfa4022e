"""What stands in the way of a start is said in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.app.server import with_certificate
from postroad.config import Config
from postroad.serve.supervisor import StartError


def test_a_folder_that_takes_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("in the way")
    with pytest.raises(StartError, match="No certificate can be made in .*tls: File exists"):
        with_certificate(Config(hostname="mx.local.test"), tmp_path)
