"""Tasks: what each dataset family gives per language, in one record format."""
