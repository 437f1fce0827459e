"""The two LIT backbones of detectors and segmentation networks: image to four maps."""
