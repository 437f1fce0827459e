"""Accuracy on images, and how far files agree."""
