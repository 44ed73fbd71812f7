"""The breaker: what a service would do of its own accord to many things at once waits for a person's approval."""
