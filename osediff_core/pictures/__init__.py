"""Picture files in and out, whole or not at all: the only place where PIL reads and writes files."""
