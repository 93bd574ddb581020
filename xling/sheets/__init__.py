"""People judge a finished grid: blinded sheets of pairs to fill in, and what the answers say."""
