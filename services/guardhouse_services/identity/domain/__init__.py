"""What identity knows, as values and pure rules. Times are microseconds since the Unix epoch."""
