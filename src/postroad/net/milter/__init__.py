"""Asking milters over their sockets: `session` is one of them in one SMTP session, `run` all of a door together."""
