"""Tests of the checkpoints room."""
