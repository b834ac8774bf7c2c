"""The scale-out back end: TRL's GRPOTrainer with the same episodes, masks and rewards."""
