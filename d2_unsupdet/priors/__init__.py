"""Boxes nobody drew: where a box pretext takes its objects from."""
