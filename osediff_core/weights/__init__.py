"""Weights files: reading them without executing anything, and knowing what they are."""
