"""Weights & Biases: runs, tables, dashboards."""
