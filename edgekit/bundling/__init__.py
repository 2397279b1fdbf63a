"""Bundles: write them atomically, add and remove adapters."""
