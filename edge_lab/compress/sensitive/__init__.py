"""Which layers suffer most from quantization."""
