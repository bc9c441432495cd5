"""The up-to-date rule: action keys, build records, digest cache."""
