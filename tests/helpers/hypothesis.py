"""How many inputs property tests try."""

from hypothesis import settings

THOROUGH = "thorough"
"""Many inputs, and new ones each time; without it a few, and always the same."""

settings.register_profile(THOROUGH, max_examples=10_000, print_blob=True)
