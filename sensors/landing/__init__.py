"""What the files sensor is made of: places, looks, scans, hints and the watch over them."""
