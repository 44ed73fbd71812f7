"""What became of the requests of SCIM clients, for Prometheus."""


class Tally:
    """Counts of one replica since it began."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, ...], float] = {}
        """By method and HTTP status."""
        self.seconds: dict[tuple[str, ...], float] = {}
        """How long they took together, by method."""

    def note(self, method: str, status: int, seconds: float) -> None:
        key = method, str(status)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.seconds[method,] = self.seconds.get((method,), 0) + seconds
