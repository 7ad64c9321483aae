"""The recipe that keeps a budget, found by trying."""
