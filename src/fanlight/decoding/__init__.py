"""Logits -> the next token. Takes arrays, ids and ops; knows no model and no text encoding."""
