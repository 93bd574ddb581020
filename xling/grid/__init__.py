"""Plan and run a grid of stages. Knows nothing of language models and imports without torch."""
