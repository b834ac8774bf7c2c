"""Where a run is shown besides its folder, one file per tool."""
