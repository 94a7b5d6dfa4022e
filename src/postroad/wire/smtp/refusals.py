"""What the server machine says when it refuses a command by itself: syntax, sequence and limits, in one table."""

from __future__ import annotations

from typing import Final

from postroad.values.reply import Reply

PREGREET: Final = Reply(521, "5.5.1", "You must wait for the greeting")
EARLY_HELLO: Final = Reply(521, "5.5.1", "You must wait for the reply to EHLO")
EARLY_DATA: Final = Reply(554, "5.5.0", "You must wait for the reply to DATA")
EARLY_TLS: Final = Reply(554, "5.5.0", "Nothing may follow STARTTLS in the clear")
BARE_LINE: Final = Reply(500, "5.5.2", "Command lines end with CRLF and hold no bare CR, bare LF or NUL")
NUL_IN_ARGUMENT: Final = Reply(501, "5.5.2", "NUL in a command")
CR_IN_ARGUMENT: Final = Reply(501, "5.5.4", "Bare CR in a command")
LONG_LINE: Final = Reply(500, "5.5.2", "Command line is too long")
UNKNOWN: Final = Reply(500, "5.5.1", "Command not recognised")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")
HTTP: Final = Reply(521, "5.5.2", "This is no HTTP server")
NOT_WELCOME: Final = Reply(503, "5.5.1", "No service for you here; only QUIT is left")
NO_HELLO: Final = Reply(503, "5.5.1", "Say EHLO first")
NO_MAIL: Final = Reply(503, "5.5.1", "Say MAIL first")
NO_RECIPIENT: Final = Reply(554, "5.5.1", "No recipient was accepted")
# RFC 2033 section 4.2: without an accepted recipient the DATA command "MUST fail with a 503 reply code"
NO_RECIPIENT_LMTP: Final = Reply(503, "5.5.1", "No recipient was accepted")
BINARY_BY_BDAT: Final = Reply(503, "5.5.1", "A message of BODY=BINARYMIME comes by BDAT")
MAIL_IS_OPEN: Final = Reply(503, "5.5.1", "A transaction is open already")
CHUNKS_ARE_OPEN: Final = Reply(503, "5.5.1", "Only BDAT or RSET can follow BDAT")
NEEDS_TLS: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
NEEDS_LOGIN: Final = Reply(530, "5.7.0", "Authentication required")
AUTH_NEEDS_TLS: Final = Reply(538, "5.7.11", "Encryption required for authentication")
AUTH_TWICE: Final = Reply(503, "5.5.1", "Already authenticated")
AUTH_IN_MAIL: Final = Reply(503, "5.5.1", "Not in a transaction")
AUTH_MECHANISM: Final = Reply(504, "5.5.4", "Mechanism not offered")
AUTH_JUNK: Final = Reply(501, "5.5.2", "Not valid base64")
AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
# RFC 4954 section 6
AUTH_LONG_LINE: Final = Reply(500, "5.5.6", "Authentication exchange line is too long")
TLS_IS_ON: Final = Reply(503, "5.5.1", "TLS is on already")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients; send the rest in another message")
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors")
TOO_MUCH_JUNK: Final = Reply(421, "4.7.0", "Too many commands that do nothing")
TOO_MANY_CHUNKS: Final = Reply(421, "4.7.0", "Too many chunks")
TOO_MANY_LOGINS: Final = Reply(421, "4.7.0", "Too many failed logins")
BAD_BDAT: Final = Reply(501, "5.5.4", "Syntax: BDAT octets [LAST]")
