"""One run over a cache root: lock, judge, build, report.

session      the run; `doit provision` and the Python API both use it
planning     the dry run
estimate     bytes that a build writes
rates        seconds that stages took before
ending       the build report and the log of a failure
tile_access  the tile store, opened on first use
"""
