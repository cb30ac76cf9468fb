"""Published files: what is known of them, getting one whole and checked, and what the cache has."""
