"""SCIM 2.0 over HTTP (RFC 7643 and 7644): its resources as the library has them, and its requests and answers."""
