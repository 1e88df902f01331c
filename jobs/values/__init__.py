"""One value, as Arrow, Python and text have it, with nothing lost."""
