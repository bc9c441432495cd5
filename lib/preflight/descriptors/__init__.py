"""Descriptors: one vector for each retrieval unit.

batcher           embeds images in batches, with smaller batches after out-of-memory errors
descriptor_store  keeps every descriptor that was ever computed
segment           one immutable file of that store
"""
