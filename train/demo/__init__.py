"""The bundled demo: its held-out photographs, its tables, its files."""
