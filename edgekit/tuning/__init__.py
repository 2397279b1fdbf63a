"""Search a recipe's values: trials, the winner, and what it is worth on rows it never saw."""
