"""The paper's published tables (csv/), what they say, and comparisons of a grid with them or with another grid."""
