"""xling: train reward models in source languages, align policies in target languages, fill in the matrix."""

__version__ = "0.1.0"
