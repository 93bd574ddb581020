"""Transfer and what languages are like: typological features and distances."""
