"""Speech to text: one gRPC stream per call, engines behind a protocol."""
