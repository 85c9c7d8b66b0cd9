"""The embedding table of a trial, what a model sees of it in a batch, and the scheme that is left of it."""
