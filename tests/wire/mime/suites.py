"""Public message suites as (name, bytes, expected shape), and the shape of our own trees to compare with.

A shape is one short string: `.` a leaf, `[...]` a multipart with what is in it, `<...>` a message inside a message.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from postroad.wire.mime.headers import split_header
from postroad.wire.mime.tree import Part, Tree, read_tree
from tests.testdata import testdata


def tree_of(message: bytes) -> Tree:
    """The tree of a whole message."""
    _, body = split_header(message)
    return read_tree(message[:body], message[body:])


def shape(part: Part) -> str:
    """The shape of one of our trees (recursion is fine here: the reader has bounded the depth)."""
    inner = "".join(shape(child) for child in part.children)
    if part.is_multipart:
        return f"[{inner}]"
    return f"<{inner}>" if part.is_message else "."


def mail_parser_files() -> list[Path]:
    """Messages that come with a parsed JSON beside them."""
    folder = testdata("mime/mail-parser")
    return [path for path in sorted(folder.glob("*/*.eml")) if path.with_suffix(".json").exists()]


def mail_parser_shape(path: Path) -> str:
    """The shape that a JSON file of the mail-parser suite describes."""
    return _json_shape(json.loads(path.with_suffix(".json").read_text("utf-8"))["parts"], 0)


def _json_shape(parts: list[dict[str, Any]], number: int) -> str:
    body = parts[number]["body"]
    if "Multipart" in body:
        return "[" + "".join(_json_shape(parts, child) for child in body["Multipart"]) + "]"
    if "Message" in body:
        return "<" + _json_shape(body["Message"]["parts"], 0) + ">"
    return "."


def mime4j_files() -> list[Path]:
    """Messages that come with an XML of the parse tree beside them."""
    folder = testdata("mime/mime4j")
    return [path for path in sorted(folder.glob("*/*.msg")) if path.with_suffix(".xml").exists()]


def mime4j_shape(path: Path) -> str | None:
    """The shape that an XML file of the mime4j suite describes; None when the file is no well-formed XML."""
    try:
        return _xml_shape(ElementTree.fromstring(path.with_suffix(".xml").read_bytes()))
    except ElementTree.ParseError:
        return None


def _xml_shape(entity: ElementTree.Element) -> str:
    for child in entity:
        if child.tag == "multipart":
            return "[" + "".join(_xml_shape(part) for part in child if part.tag == "body-part") + "]"
        if child.tag == "message":
            return "<" + _xml_shape(child) + ">"
    return "."


NOT_XML = frozenset(("2002_06_12_doublebound", "twopart"))
"""mime4j results that contain control characters and so are no XML."""


def every_message() -> list[Path]:
    """All messages of all three suites, with or without an expected result."""
    folder = testdata("mime")
    jsmime = [path for path in sorted((folder / "jsmime").iterdir()) if path.is_file()]
    return [*sorted(folder.glob("mail-parser/*/*.eml")), *sorted(folder.glob("mime4j/*/*.msg")), *jsmime]
