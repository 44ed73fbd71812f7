"""Ipam's values and rules: no I/O, no clock, no message."""
