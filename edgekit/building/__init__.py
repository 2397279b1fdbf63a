"""Build: export once per target, add sockets, prove parity, assemble the bundle."""
