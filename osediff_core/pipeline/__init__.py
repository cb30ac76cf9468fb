"""The trip of a picture: plan once, then prepare, encode, denoise, decode, finish."""
