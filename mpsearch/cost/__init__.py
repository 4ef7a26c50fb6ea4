"""What an assignment costs on a device: latency, stored bytes, energy."""
