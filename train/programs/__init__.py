"""What the programs of the trainer share: how they speak, read their settings, and write pages of docs/."""
