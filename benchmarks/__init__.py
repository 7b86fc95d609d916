"""Fanlight raced against other engines on this machine: `make bench`. Knows the public APIs; the product never imports it."""
