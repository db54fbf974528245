"""Files and folders that are either whole or absent, whatever happens to the process that writes them."""
