"""A gateway that makes what the registry says physical: whoever is not active is no peer."""
