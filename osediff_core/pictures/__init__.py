"""Picture files in and out, whole or not at all: the only place that knows PIL."""
