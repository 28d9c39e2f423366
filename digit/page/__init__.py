"""The page of `digit demo`: what it does, and gradio's layout of it."""
