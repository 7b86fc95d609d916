"""Runs kept: a trace holds what each step saw, replays, branches, and answers questions. Knows no terminal and no picture."""
