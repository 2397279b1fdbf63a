"""Adapters: read PEFT directories strictly, convert them to a target's sockets."""
