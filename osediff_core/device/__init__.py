"""The machine: what memory is free, parts of a model on their device while needed, compiling, huge pages."""
