"""The matrix as one page, report.html."""
