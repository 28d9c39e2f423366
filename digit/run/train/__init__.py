"""`digit train`: data, a stage, the one loop; the run's folder is the artifact.

What the stages are built of, measured by and shown with is in digit.run.stages.
"""
