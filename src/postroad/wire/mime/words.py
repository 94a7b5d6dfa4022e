"""RFC 2047 encoded words: read for display, written for our own headers.

What is read here is shown to people and searched; it never becomes part of a header again. Two properties hold
for any input: no control character comes out (an encoded newline becomes a blank), and the work is linear.

    >>> decode_words(b"=?utf-8?Q?Gr=C3=BC=C3=9Fe?= from =?iso-8859-1?B?S/ZsbgA=?=")
    'Grüße from Köln '
    >>> encode_words("Grüße")
    '=?utf-8?Q?Gr=C3=BC=C3=9Fe?='
"""

from __future__ import annotations

import binascii
import re

MAX_ENCODED_WORDS = 1_000
"""Encoded words decoded in one value; the rest stays as it came. A 64 kB subject in full words has about 900."""

MAX_WORD_OCTETS = 60
"""Octets of one encoded word that we write. RFC 2047 section 2 allows 75, and 76 for the line, which also carries the
field's name."""

# The middle excludes "?" and blanks, so each attempt stops at the next "?" and the search is linear.
_WORD = re.compile(rb"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?\s]*)\?=")
_BLANKS = b" \t\r\n"

# Codecs by the names seen in mail. A list and not codecs.lookup(): Python also offers quadratic codecs (punycode)
# and such that are no charset at all (unicode_escape, undefined), and a name from a stranger must reach none.
_CODECS = {
    name: codec
    for codec, names in {
        "utf-8": "utf-8 utf8 us-ascii ascii ansi_x3.4-1968 unicode-1-1-utf-8 default unknown-8bit 8bit",
        "cp1252": "iso-8859-1 iso8859-1 iso_8859-1 latin1 latin-1 l1 windows-1252 cp1252 cp-1252 ansi",
        "iso8859-2": "iso-8859-2 iso8859-2 latin2 latin-2",
        "iso8859-3": "iso-8859-3 latin3",
        "iso8859-4": "iso-8859-4 latin4",
        "iso8859-5": "iso-8859-5",
        "iso8859-6": "iso-8859-6 iso-8859-6-i iso-8859-6-e",
        "iso8859-7": "iso-8859-7",
        "iso8859-8": "iso-8859-8 iso-8859-8-i iso-8859-8-e",
        "iso8859-9": "iso-8859-9 latin5",
        "iso8859-10": "iso-8859-10 latin6",
        "iso8859-13": "iso-8859-13",
        "iso8859-14": "iso-8859-14",
        "iso8859-15": "iso-8859-15 iso8859-15 latin9 latin-9",
        "iso8859-16": "iso-8859-16",
        "cp1250": "windows-1250 cp1250",
        "cp1251": "windows-1251 cp1251",
        "cp1253": "windows-1253 cp1253",
        "cp1254": "windows-1254 cp1254",
        "cp1255": "windows-1255 cp1255",
        "cp1256": "windows-1256 cp1256",
        "cp1257": "windows-1257 cp1257",
        "cp1258": "windows-1258 cp1258",
        "cp874": "windows-874 tis-620 iso-8859-11",
        "cp437": "ibm437 cp437",
        "cp850": "ibm850 cp850",
        "cp852": "ibm852 cp852",
        "cp866": "ibm866 cp866",
        "koi8-r": "koi8-r",
        "koi8-u": "koi8-u",
        "mac-roman": "macintosh mac-roman x-mac-roman",
        "gb18030": "gb2312 gbk gb18030 cp936 x-gbk euc-cn",
        "hz": "hz-gb-2312",
        "big5hkscs": "big5 big5-hkscs cn-big5",
        "cp932": "shift_jis shift-jis sjis x-sjis windows-31j cp932 ms_kanji",
        "euc_jp": "euc-jp",
        "iso2022_jp_2": "iso-2022-jp iso-2022-jp-2",
        "cp949": "euc-kr ks_c_5601-1987 cp949 korean",
        "iso2022_kr": "iso-2022-kr",
        "utf-16": "utf-16",
        "utf-16-le": "utf-16le",
        "utf-16-be": "utf-16be",
        "utf-32": "utf-32",
        "utf-7": "utf-7 unicode-1-1-utf-7",
    }.items()
    for name in names.split()
}

# RFC 2047 section 5: nothing that ends a line may come out of a word; C0, DEL, C1, U+2028 and U+2029 become blanks.
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029), " ")
_QUESTION_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")


def codec_for(charset: bytes) -> str | None:
    """The Python codec for a charset name as it stands in mail (any case), or None when it is not one we read."""
    return _CODECS.get(charset.decode("ascii", "replace").strip().lower())


def decode_charset(octets: bytes, charset: bytes | None) -> str:
    """`octets` as text: by `charset` if known, else as UTF-8, else as Windows-1252; bad bytes become U+FFFD."""
    codec = codec_for(charset) if charset else None
    if codec is not None:
        return octets.decode(codec, "replace")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("cp1252", "replace")


def display_text(text: str) -> str:
    """`text` with every control character and line separator turned into a blank."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def decode_words(value: bytes) -> str:
    """A header value for display: encoded words decoded, bare 8-bit read as UTF-8 (RFC 6532), no control characters.

    Neighbouring words in one charset are joined before decoding, since many senders cut inside a character.
    Words past `MAX_ENCODED_WORDS` and words that cannot be read stay as they came.
    """
    if b"=?" not in value:
        return display_text(decode_charset(value, None))
    pieces: list[str] = []
    pending = bytearray()
    pending_charset = b""
    position = 0
    for count, word in enumerate(_WORD.finditer(value)):
        if count == MAX_ENCODED_WORDS:
            break
        between = value[position : word.start()]
        charset = word[1].lower()
        # RFC 2047 section 6.2: blanks between two encoded words are ignored.
        joined = position > 0 and not between.strip(_BLANKS)
        if not joined or charset != pending_charset:
            pieces.append(decode_charset(bytes(pending), pending_charset or None))
            pending.clear()
        if not joined:
            pieces.append(decode_charset(between, None))
        pending += _word_octets(word[2], word[3])
        pending_charset = charset
        position = word.end()
    pieces.append(decode_charset(bytes(pending), pending_charset or None))
    pieces.append(decode_charset(value[position:], None))
    return display_text("".join(pieces))


def _word_octets(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"qQ":
        return binascii.a2b_qp(text, header=True)
    letters = text.rstrip(b"=")
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    try:
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    except binascii.Error:
        return text


def encode_words(text: str) -> str:
    """`text` as US-ASCII for an unstructured header or a phrase: itself if it can stand, else encoded words.

    Words are joined by a blank, at which the composer may fold; no word exceeds `MAX_WORD_OCTETS` or cuts a
    character (RFC 2047 section 5). Text that looks like an encoded word is encoded too, so that it reads back.
    """
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    prefix, suffix = "=?utf-8?Q?", "?="
    room = MAX_WORD_OCTETS - len(prefix) - len(suffix)
    words: list[str] = []
    line = ""
    for character in text:
        piece = "".join(_question(octet) for octet in character.encode("utf-8", "replace"))
        if len(line) + len(piece) > room:
            words.append(prefix + line + suffix)
            line = ""
        line += piece
    words.append(prefix + line + suffix)
    return words


def _question(octet: int) -> str:
    if octet == 0x20:
        return "_"
    return chr(octet) if octet in _QUESTION_SAFE else f"={octet:02X}"
