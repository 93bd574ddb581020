"""The embedded world: facts, words and frames in six languages, errors, exact gold, unlabelled text."""
