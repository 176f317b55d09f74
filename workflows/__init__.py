"""One command a file; each reads from top to bottom like a recipe."""
