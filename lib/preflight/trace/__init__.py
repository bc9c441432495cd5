"""The up-to-date rule.

rule     judges whether a step is up to date, and runs it
record   build records and action keys
digests  the cache of file digests
"""
