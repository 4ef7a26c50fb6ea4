"""What is done with a run after its end: measuring what people wish, looking at its ranges."""
