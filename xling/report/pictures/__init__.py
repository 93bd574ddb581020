"""`xling figures GRID`: what goes into a paper, drawn and set from a finished matrix."""
