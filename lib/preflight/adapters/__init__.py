"""Adapters behind the ports: one package or module for each foreign library, and its only importer."""
