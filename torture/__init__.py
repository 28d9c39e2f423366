"""Fault and fuzz tests of digit: processes killed, disks that refuse, damaged and hostile files.

`python -m torture` runs them in full and `--short` in seconds; docs/reliability.md has the figures.
"""
