"""A check of the words: refuses mannered phrases in pages, docstrings and comments."""
