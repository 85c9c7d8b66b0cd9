"""Parameters: one module of typed settings per section of ``params/``, read strictly from YAML files (`loading`)."""
