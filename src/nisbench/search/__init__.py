"""The search methods: one module per kind, named like it in params/methods.yaml, with a `propose` function."""
