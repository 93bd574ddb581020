"""report.html: a grid as one page that can be sent to a co-author. write.py is the entry."""
