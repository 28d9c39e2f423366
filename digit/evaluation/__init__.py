"""Each file one measurement, a pure function of statistics; beside them the networks they use."""
