"""From the items of cells to the source x target matrix."""
