"""One recipe a file: each workflow reads from top to bottom."""
