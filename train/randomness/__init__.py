"""Random numbers from explicit generators: streams by purpose, and single decisions."""
