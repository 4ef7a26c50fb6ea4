"""Calibration data: arrays read, checked and batched; pictures, text and columns made into them."""
