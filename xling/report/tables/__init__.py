"""The matrix as tables: terminal, Markdown, LaTeX."""
