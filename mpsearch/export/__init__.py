"""Plans as files that a compiler or a runtime takes; one exporter a target, found by name."""
