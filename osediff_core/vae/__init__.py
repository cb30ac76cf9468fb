"""The VAE in pieces whose result is that of the whole: halos, global norm statistics, global attention."""
