"""What `osediff` can do: one module for each command, with `main(argv)` that returns the exit status."""
