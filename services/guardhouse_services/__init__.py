"""The Guardhouse servers: identity, registry, ipam and session."""
