"""The command line: `guardhouse --help`."""

import sys

# What guardhouse[cli] adds to guardhouse.
EXTRA = ("cryptography", "grpc_health", "rich", "typer")


def main() -> None:
    """Runs the command that the arguments name; its exit code is 0, 1 for a failure and 2 for a wrong command line."""
    try:
        from guardhouse.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        sys.exit(f"error: {error.name} is not installed; the command line needs: pip install 'guardhouse[cli]'")
    app()
