"""Bytes -> named arrays and metadata. In: a path. Out: a Checkpoint. Knows no model, no text and no kernel."""
