"""OCI registries: references, logins, connections, artifacts, blobs; the standard library only."""
