"""The demo: a real model that ships in a package, and labelled data made on the spot."""
