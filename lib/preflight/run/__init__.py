"""One run over a cache root: take the lock, check the stages, build, report.

session      the run; `doit provision` and the Python API both use it
planning     the dry run
estimate     bytes that a build writes
rates        seconds that stages took in earlier builds
ending       the build report and the log of a failure
tile_access  the tile store, opened on first use
"""
