"""What the model is told, and the parsing of what it replies."""
