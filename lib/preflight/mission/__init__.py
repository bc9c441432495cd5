"""A mission file, read into one checked `Job`.

loading      the whole file: `load_mission`
job          what one build is asked to do, and the checks that need several fields
schema       fields, types, bounds and defaults
fields       plain values into typed structs
reader       YAML text into plain values
cache_place  the two paths that a verification needs
"""
