"""What the model is told about a picture: text, tags of RAM and DAPE, or a model's description."""
