"""Session's own database, a module for each resource.

Functions take the transaction first, and take and return domain values. Every query names the organization.
"""

from guardhouse_services.session.store import lists, policies
from guardhouse_services.session.store.tables import metadata

__all__ = ["lists", "metadata", "policies"]
