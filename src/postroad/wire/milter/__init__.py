"""The milter protocol as the mail server's side speaks it (version 6, and 2 to 5): letters, packets, one machine.

There is no RFC. The facts are those of libmilter: `mfdef.h` and the pages of its functions (smfi_*, xxfi_*), and what
Postfix's MILTER_README says of the dialogue as it is in use.
"""
