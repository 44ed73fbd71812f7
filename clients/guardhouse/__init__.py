"""Guardhouse for those who call it: stubs, client, typed errors and the command line."""
