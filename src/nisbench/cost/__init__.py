"""What training costs on the device at hand, measured on generated instances."""
