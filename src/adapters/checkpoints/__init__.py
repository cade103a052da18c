"""Adapters in files."""
