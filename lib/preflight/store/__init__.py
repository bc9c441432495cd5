"""The cache root on disk.

cache_layout  the paths below a cache root
atomic        writes, links and removals that survive a power cut
lock          the build lock
sidecar       the .sha256 sidecar of a file
generations   published generations and the links to them
manifests     reads manifests of any schema
carry         copies a generation to another medium
medium        what the file system of that medium can hold, and what it has really stored
"""
