"""The cache root on disk.

cache_layout  the paths below a cache root
atomic        writes, links and removals that survive a power cut
lock          the build lock
generations   published generations and the links to them
carry         copies of a generation on another medium
"""
