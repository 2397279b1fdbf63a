"""Evaluate: one scoring code for a torch model and for a bundle."""
