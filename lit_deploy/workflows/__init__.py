"""What a user asks for: export, verify, predict, inspect, doctor."""
