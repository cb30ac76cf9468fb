"""What a card does with the model of full size, in one page: correctness, speed and training."""
