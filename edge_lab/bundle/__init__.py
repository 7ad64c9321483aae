"""What a device must know about a model (`spec`), and the folder that says it (`folder`)."""
