"""The composition root: what the server is made of, in the order it comes to be.

`app.server` is the supervisor's side, `app.worker` puts one worker together; both read like a table of contents.
"""

from __future__ import annotations

from postroad.app.server import serve

__all__ = ["serve"]
