"""Equality with official implementations, from golden files and weights made by a rule."""
