"""The policy process: runs the administrator's `policy.py` and answers one question after the other.

`python -P -m postroad.serve.policy_child`, started by a worker with a socket as standard input and a pipe as standard
output and error, where whatever the file prints goes. It ends with its worker, whatever it is doing, and shares nothing
with it: no connection, no store, no memory. What the file does to this process is its own affair; the worker kills the
process and starts another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from postroad.rules import policy
from postroad.serve.policy_frames import (
    FRAME_MAX,
    LENGTH,
    Beginning,
    Failed,
    Load,
    Loaded,
    Order,
    Question,
    Reply,
    Told,
    Want,
    decode_order,
    frame,
    record_fields,
)

ADDRESS_SPACE: Final = 4 * 1024**3
"""Octets of address space: far more than rules need, far less than would trouble a mail server."""

OPEN_FILES: Final = 256
"""Open files of the process."""

ERROR_MAX: Final = 300
"""Characters of an error's own text that are told when a file cannot be loaded."""

MODULE: Final = "policy"

RECORDS: Final[dict[str, type[policy.Connect]]] = {
    "connect": policy.Connect,
    "hello": policy.Hello,
    "auth": policy.Auth,
    "mail": policy.Mail,
    "rcpt": policy.Rcpt,
    "message": policy.Message,
}
"""The stages a file can have a function for, with what the function is given."""

FIELDS: Final = {
    stage: tuple(field.name for field in dataclasses.fields(record) if field.name != "read_body")
    for stage, record in RECORDS.items()
}

_PR_SET_PDEATHSIG: Final = 1


class Line:
    """The socket to the worker, read and written by blocking calls: there is one question at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self) -> Order:
        """The next order; ends the process when the worker is gone or cannot be understood."""
        length = int.from_bytes(self._exactly(LENGTH), "big")
        if length > FRAME_MAX:
            os._exit(1)
        order: Order = decode_order(self._exactly(length))
        return order

    def say(self, reply: Reply) -> None:
        """Write one reply; ends the process when the worker is gone."""
        try:
            self._sock.sendall(frame(reply))
        except OSError:
            os._exit(0)

    def beginning(self, octets: int) -> bytes:
        """The beginning of the body that is being asked about."""
        self.say(Want(octets))
        order = self.read()
        return order.octets if isinstance(order, Beginning) else b""

    def _exactly(self, octets: int) -> bytes:
        read = bytearray()
        while len(read) < octets:
            try:
                piece = self._sock.recv(octets - len(read))
            except OSError:
                piece = b""
            if not piece:
                os._exit(0)
            read += piece
        return bytes(read)


class Functions:
    """The functions of a loaded file."""

    def __init__(self, path: str, module: types.ModuleType, line: Line) -> None:
        self._path = path
        self._line = line
        self._runner: Any = None
        self._functions: dict[str, Callable[[Any], Any]] = {}
        for stage in RECORDS:
            function = getattr(module, stage, None)
            if function is not None:
                self._functions[stage] = _one_argument(stage, function)

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that have a function."""
        return tuple(self._functions)

    def answer(self, asked: Question) -> Reply:
        """What the function of the stage says; whatever it raises becomes a `Failed`."""
        try:
            said = self._functions[asked.stage](self._record(asked))
            if hasattr(said, "__await__"):
                said = self._finished(said)
            return Told(policy.opinions(said, asked.stage))
        except BaseException as error:
            return Failed(self._evidence(error, asked.stage))

    def _record(self, asked: Question) -> policy.Connect:
        fields = record_fields(asked, FIELDS[asked.stage])
        if asked.stage == "message":
            fields["read_body"] = self._line.beginning
        return RECORDS[asked.stage](**fields)

    def _finished(self, coroutine: Any) -> Any:
        """The result of an `async def`; all run on one loop, so that a client of theirs may live on."""
        import asyncio

        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(coroutine)

    def _evidence(self, error: BaseException, stage: str) -> str:
        """Kind and place of an error. Its text may quote the message and is told only where it is ours."""
        line = line_in(self._path, error)
        place = f"{Path(self._path).name} line {line}" if line else Path(self._path).name
        if isinstance(error, policy.Unusable):
            return f"{place}: {error}"
        return f"{place}: {type(error).__name__} in {stage}()"


def _one_argument(stage: str, function: Any) -> Callable[[Any], Any]:
    """The function, if it can be called with a record; raises TypeError with words for the person who wrote it."""
    import inspect

    if not callable(function):
        raise TypeError(f"{stage} is not a function")
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        raise TypeError(f"{stage}() must take one argument, a {RECORDS[stage].__name__}") from None
    except ValueError:
        pass  # a function in C that does not tell
    return function  # type: ignore[no-any-return]


def load(order: Load, line: Line) -> tuple[Functions | None, Loaded]:
    """Run the source; the functions, and what is told of them."""
    module = types.ModuleType(MODULE)
    module.__file__ = order.path
    sys.modules[MODULE] = module
    sys.path.append(str(Path(order.path).parent))
    try:
        exec(compile(order.source, order.path, "exec", dont_inherit=True), module.__dict__)  # its whole purpose
        functions = Functions(order.path, module, line)
    except BaseException as error:
        return None, Loaded(error=_told(error), line=line_in(order.path, error))
    return functions, Loaded(stages=functions.stages)


def _told(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"[:ERROR_MAX] if text else type(error).__name__


def line_in(path: str, error: BaseException) -> int:
    """The innermost line of the file that an error came from; 0 when it came from none."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno or 0
    lines = [at for code, at in traceback.walk_tb(error.__traceback__) if code.f_code.co_filename == path]
    return lines[-1] if lines else 0


def take_socket() -> socket.socket:
    """The socket that came as standard input, which then is empty: `input()` in the file must not read questions."""
    sock = socket.socket(fileno=os.dup(0))
    sock.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return sock


def end_with_parent() -> None:
    """The kernel kills this process when its worker is gone (prctl(2)), even inside a function that never returns."""
    import ctypes

    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent or parent == 1:
        os._exit(0)


def set_limits() -> None:
    """Bounds of this process; where memory is short, it goes first."""
    for kind, wanted in (
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bound, bound))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Load and answer until the worker closes the socket."""
    end_with_parent()
    set_limits()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    line = Line(take_socket())
    order = line.read()
    if not isinstance(order, Load):
        os._exit(1)
    functions, loaded = load(order, line)
    line.say(loaded)
    while functions is not None:
        asked = line.read()
        if isinstance(asked, Question):
            line.say(functions.answer(asked))


if __name__ == "__main__":
    main()
