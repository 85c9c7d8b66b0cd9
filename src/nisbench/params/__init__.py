"""Parameters: typed settings (`settings`) read strictly from YAML files (`loading`)."""
