"""What was measured, as values, and the budgets that it is held to."""
