"""The command line: a function for every verb, each of them usable from Python as well."""
