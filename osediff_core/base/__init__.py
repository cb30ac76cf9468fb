"""The base model: where its parts come from, and filling an empty network with them, tensor by tensor."""
