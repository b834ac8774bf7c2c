"""How fast the RL engine is: against TRL, against the floor of the machine, and as prompts and batches grow."""
