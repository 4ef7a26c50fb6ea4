"""The export for the reference NPU: packed weights, one layout file and the graph without weights."""
