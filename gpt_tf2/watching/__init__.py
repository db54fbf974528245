"""A page that shows training runs while they go on, from the files that they write."""
