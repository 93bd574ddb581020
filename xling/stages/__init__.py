"""The work of the stages; each module reads top to bottom. `KINDS` of xling/planning names them."""
