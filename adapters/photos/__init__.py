"""Photos with their labels, and the files and lists that name them."""
