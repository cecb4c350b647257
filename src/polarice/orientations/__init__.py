"""Orientations of images from their common lines, without a reference."""
