"""What a graph decides about: layers, their products, roles, groups and edges."""
