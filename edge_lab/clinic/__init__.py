"""What goes wrong, why, and what to do: exports, and this machine."""
