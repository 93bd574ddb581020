"""Measures of texts: language, ROUGE, repetition."""
