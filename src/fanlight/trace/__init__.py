"""Plain data: what one step of decoding saw, and why it was the last. Imports no model."""
