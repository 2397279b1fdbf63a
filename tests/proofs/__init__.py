"""The long proofs: every method on real data, each cell once, over as many sessions as it takes."""
