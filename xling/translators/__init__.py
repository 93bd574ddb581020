"""Translators: texts of one language in, the same in another out, or nothing where there is no translation."""
