"""`python -m postroad`: the same as the command `postroad`, for a machine where the script is not on PATH."""

from __future__ import annotations


def run() -> None:
    """Hands over to the command line, which is imported here so that importing this module costs nothing."""
    from postroad.console.cli.main import main

    main()


if __name__ == "__main__":
    run()
