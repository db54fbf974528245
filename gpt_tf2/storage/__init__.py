"""Files on disk: complete or absent. Private."""
