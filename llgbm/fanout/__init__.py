"""Independent items of work on several processes or machines: what is to be done is said once, an engine says where."""
