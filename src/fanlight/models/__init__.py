"""Architectures, one a file. In: weights and ids. Out: logits. Knows no text and no decoding."""
