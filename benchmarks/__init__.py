"""Fanlight raced against other engines on this machine: `make bench`. Knows the public API and the peers'; the product never imports it."""
