"""Programs of torch.export and AOTInductor."""
