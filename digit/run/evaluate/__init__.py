"""The verbs of `digit evaluate`, and beside them, heavy, what they measure by."""
