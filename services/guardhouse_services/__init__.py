"""The Guardhouse servers: identity, registry, ipam and session."""

import sys


def main() -> None:
    """Runs `guardhouse-server`, where what guardhouse[server] brings is installed."""
    try:
        from guardhouse_services.__main__ import main as run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("guardhouse"):
            raise
        sys.exit(f"error: {error.name} is not installed; the servers need: pip install 'guardhouse[server]'")
    run()
