"""Channels and weights that are left out."""
