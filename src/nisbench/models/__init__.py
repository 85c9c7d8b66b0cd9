"""The models: one module per kind, named like it in params/models.yaml, with a `build` function."""
