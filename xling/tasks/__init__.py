"""Tasks: demonstrations, feedback and prompts of each dataset family, by language, in one record format."""
