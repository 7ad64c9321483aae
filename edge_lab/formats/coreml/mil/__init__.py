"""Core ML's programs, run step by step in NumPy, where there is no Mac."""
