"""Train: a person's data to a PEFT adapter."""
