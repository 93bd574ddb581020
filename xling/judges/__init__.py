"""Language models as judges: what they are asked, how a local one and an endpoint answer, what is kept of it."""
