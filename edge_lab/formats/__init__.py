"""One folder for each format: what writes it, what looks inside, what runs it."""
