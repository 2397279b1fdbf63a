"""Many trainings: one after another on this machine, or spread over machines by Ray."""
