"""Pictures on the way in: decoding, preparing, folders and their classes, calibration images, labels."""
