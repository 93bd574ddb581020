"""Models: loading, sampling from policies, and the one scoring path."""
