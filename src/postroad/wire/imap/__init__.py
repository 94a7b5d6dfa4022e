"""IMAP4rev1 (RFC 3501) from the server's side, without I/O.

* `machine`     octets in, commands as events out, responses as octets out
* `commands`    the events
* `syntax`      atoms, strings, literals, numbers
* `grammar`     what stands behind each command word
* `sets`        sequence sets
* `mailboxes`   names, modified UTF-7, LIST patterns
* `fetch`       FETCH items as values
* `sections`    which octets a BODY[...] item means
* `search`      SEARCH keys as a tree and as a program that judges messages
* `structure`   ENVELOPE, BODY and BODYSTRUCTURE
* `responses`   strings, flags, dates and whole FETCH responses
"""
