"""Session's own database, a module for each resource.

Functions take the transaction first, and take and return domain values. Every query names the organization.
"""

from guardhouse_services.session.store import applications, device_session_settings, lists, policies, signing_keys
from guardhouse_services.session.store.tables import metadata

__all__ = ["applications", "device_session_settings", "lists", "metadata", "policies", "signing_keys"]
