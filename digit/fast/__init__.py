"""What exists for speed on a GPU: other forms of plain functions, which mean the same."""
