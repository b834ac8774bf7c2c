"""Our rewards in other libraries' training loops."""
