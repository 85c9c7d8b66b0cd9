"""A pruned model as a folder that stands alone: written by `export`, read by `load_model`."""

from nisbench.serving.compressed import CompressedEmbedding
from nisbench.serving.folder import export
from nisbench.serving.model import ServedModel, load_model

__all__ = ["CompressedEmbedding", "ServedModel", "export", "load_model"]
