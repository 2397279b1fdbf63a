"""The light runtime: opens a bundle, loads the base once, swaps adapters per request."""

__version__ = "0.1.0"
