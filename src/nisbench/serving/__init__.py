"""A pruned model as a folder that stands alone: written by `export`, read by `load_model`."""

from nisbench.serving.folder import export, stored_bytes
from nisbench.serving.model import ServedModel, load_model

__all__ = ["ServedModel", "export", "load_model", "stored_bytes"]
