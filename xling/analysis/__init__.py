"""From per-item records to the transfer matrix: pure functions, numpy only, no model is ever loaded."""
