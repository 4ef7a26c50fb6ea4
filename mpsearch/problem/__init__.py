"""Tables, costs, problems and fronts as arrays."""
