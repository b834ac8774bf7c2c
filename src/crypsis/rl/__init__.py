"""GRPO on unmodified Hugging Face models."""
