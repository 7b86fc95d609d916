"""Requests in, steps out: the scheduler and the one loop around a decoder."""
