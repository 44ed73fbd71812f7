"""What a demonstration needs around the services: an identity provider."""
