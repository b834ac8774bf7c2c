"""The tiny world: language, tokenizer, base model, preference model, oracle."""
