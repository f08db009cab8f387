"""A measurement → JSON, terminal and HTML, and its comparison with a former one."""
