"""Training one recommender under one selection."""
