"""What a person sees of a run: numbers, curves, sample pictures, its page."""
