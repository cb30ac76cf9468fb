"""A problem on which VSD must show, and that a CPU learns in minutes: labyrinths, four times enlarged.

The steps, losses, adapters and running average are the trainer's own. Only what surrounds them is smaller:
pictures are made by a program, prompts are two fixed vectors, and a latent is 2 x 2 pixels without a VAE.
"""
