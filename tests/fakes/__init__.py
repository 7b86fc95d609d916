"""Stand-ins that behave: a decoder and a tokenizer without weights or files."""
