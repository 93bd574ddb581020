"""Typed formats of what stages write and everything later reads."""
