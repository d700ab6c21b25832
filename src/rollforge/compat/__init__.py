"""Other programs' names for what Rollforge does."""
