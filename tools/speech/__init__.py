"""How `speechnet` was made: voices that speak, a bank of disturbed recordings, and the training."""
