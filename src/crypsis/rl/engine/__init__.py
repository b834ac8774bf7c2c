"""The fast engine: attention with a shared prefix, scoring, samplers, memory."""
