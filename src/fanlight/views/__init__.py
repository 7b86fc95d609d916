"""Pictures of records. In: plain data from `trace`, and a way to write a token. Knows no model and no engine."""
