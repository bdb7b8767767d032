"""Text to speech: audio as it is made, engines behind a protocol."""
