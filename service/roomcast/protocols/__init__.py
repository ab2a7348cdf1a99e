"""What the bytes on a connection mean. How they travel is the transports' business."""
