"""The audit of what is asked over HTTP: one table of routes, one layer in front of them."""
