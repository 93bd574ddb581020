"""A matrix as tidy tables, and the form of a finding."""
