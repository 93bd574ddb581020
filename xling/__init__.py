"""xling: train reward models in source languages, align policies in target languages, fill in the matrix."""
