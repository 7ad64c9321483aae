"""What the methods share: graphs, layers, packed and quantized weights."""
