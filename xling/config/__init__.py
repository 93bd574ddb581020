"""Settings that several groups share: numbers with bounds, languages, training budgets, policies."""
