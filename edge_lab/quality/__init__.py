"""Are the answers right: accuracy, agreement, and the layer where two programs part."""
