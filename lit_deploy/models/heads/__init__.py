"""What finds boxes, masks or labels in the levels of a feature pyramid."""
