"""What detection, instance and semantic segmentation share: pictures of any size, one at a time. No task itself."""
