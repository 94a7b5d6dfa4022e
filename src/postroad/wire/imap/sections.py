"""Which octets a BODY[...] item means, as pieces of the header and slices of the body.

RFC 3501 section 6.4.5. `header` is the message's header block with its blank line; `tree` was read from it and the
body. The result is a list of pieces: octets, or `Slice`s of the body that nobody has to load.

    >>> header, body = b"Subject: x\\r\\n\\r\\n", b"hello\\r\\n"
    >>> section_pieces(Section(Kind.TEXT, partial=(1, 3)), header, read_tree(header, body), body)
    [Slice(start=1, end=4)]
"""

from __future__ import annotations

from postroad.wire.imap.fetch import Kind, Section
from postroad.wire.imap.responses import Piece, Slice, cut
from postroad.wire.mime.headers import MAX_HEADER_OCTETS, HeaderIndex, HeaderTooLarge
from postroad.wire.mime.tree import Part, Tree, read_tree

__all__ = ["Kind", "Section", "read_tree", "section_pieces"]


def section_pieces(section: Section, header: bytes, tree: Tree, body: bytes) -> list[Piece] | None:
    """The octets of one section, cut to its partial range; None when the message has no such part (NIL to the client).

    `body` is only looked at for HEADER.FIELDS of an inner message; an mmap serves as well.
    """
    pieces = _whole(section, header, tree, body)
    if pieces is None or section.partial is None:
        return pieces
    return cut(pieces, *section.partial)


def header_fields(block: bytes, fields: tuple[bytes, ...], *, wanted: bool) -> bytes:
    """The fields of a header whose names are (or, with `wanted` false, are not) in `fields`, and a blank line.

    Order and spelling stay as they are. A header over its limits gives only the blank line.
    """
    try:
        index = HeaderIndex(block)
    except HeaderTooLarge:
        return b"\r\n"
    names = frozenset(fields)
    kept = [index.raw_field(at) for at, name in enumerate(index.names) if (name in names) is wanted]
    if kept and not kept[-1].endswith(b"\n"):
        kept.append(b"\r\n")
    return b"".join(kept) + b"\r\n"


def _whole(section: Section, header: bytes, tree: Tree, body: bytes) -> list[Piece] | None:
    if not section.path:
        return _of_message(section, header, tree.root, body)
    part = find_part(tree.root, section.path)
    if part is None:
        return None
    if section.kind is Kind.ALL:
        return [Slice(part.body_start, part.body_end)]
    if section.kind is Kind.MIME:
        return _mime_header(part, section.path, tree, header)
    # RFC 3501 section 6.4.5: HEADER and TEXT may follow a part number "provided that the numeric part specifier refers
    # to a part of type MESSAGE/RFC822".
    if not part.is_message or not part.children:
        return None
    inner = part.children[0]
    if section.kind is Kind.HEADER:
        return [Slice(inner.header_start, inner.header_end)]
    if section.kind is Kind.TEXT:
        return [Slice(inner.body_start, inner.body_end)]
    block = body[inner.header_start : min(inner.header_end, inner.header_start + MAX_HEADER_OCTETS)]
    return [header_fields(block, section.fields, wanted=section.kind is Kind.FIELDS)]


def _of_message(section: Section, header: bytes, root: Part, body: bytes) -> list[Piece]:
    whole_body = Slice(0, root.body_end)
    if section.kind is Kind.ALL:
        return [header, whole_body]
    if section.kind is Kind.TEXT:
        return [whole_body]
    if section.kind is Kind.HEADER:
        return [header]
    return [header_fields(header, section.fields, wanted=section.kind is Kind.FIELDS)]


def _mime_header(part: Part, path: tuple[int, ...], tree: Tree, header: bytes) -> list[Piece]:
    # Part 1 of a message that is no multipart has the message's own header as its MIME header; it may stand in an
    # inner message, whose root's header lies in the body.
    if part is tree.root:
        return [header]
    return [Slice(part.header_start, part.header_end)]


def find_part(root: Part, path: tuple[int, ...]) -> Part | None:
    """The part with these numbers, or None.

    RFC 3501 section 6.4.5: a message that is no multipart has one part, 1, which is its body; inside message/rfc822
    the numbers go on with the parts of the inner message.
    """
    part = root
    is_root = True
    for number in path:
        if not is_root:
            if part.is_message and part.children:
                part = part.children[0]
            elif not part.is_multipart:
                return None
        if part.is_multipart:
            # A multipart without parts is shown with one empty part.
            children = part.children or [_nothing_in(part)]
            if number > len(children):
                return None
            part = children[number - 1]
        elif number != 1:
            return None
        is_root = False
    return part


def _nothing_in(multipart: Part) -> Part:
    end = multipart.body_end
    return Part(end, end, end, end)
