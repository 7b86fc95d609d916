"""How a text is found, step by step: one line, several, or a tree of them. Each is a generator of wants. Knows no model."""
