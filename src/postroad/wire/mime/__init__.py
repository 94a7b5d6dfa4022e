"""Reading and writing Internet messages on their original bytes.

* `headers`   where each header field lies (byte offsets), and where the header ends
* `words`     RFC 2047 encoded words, read for display and written
* `addresses` address lists as IMAP's ENVELOPE wants them
* `dates`     the Date field
* `params`    Content-Type and its parameters (RFC 2045, RFC 2231)
* `tree`      the tree of MIME parts as byte offsets into the body
* `content`   one part's bytes, transfer decoding undone, as text
* `compose`   writing headers, text bodies and multiparts safely

Every reader here takes hostile bytes: none raises on content, none recurses on input, all run in time
proportional to their input, and each limit is a named constant.
"""
