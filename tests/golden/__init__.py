"""Golden values: what the core computes on tiny data. See `nisbench.identity` for what they are for, and `make golden`."""
