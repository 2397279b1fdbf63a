"""Rounding weights to blocks of few bits, and putting them into a built graph."""
