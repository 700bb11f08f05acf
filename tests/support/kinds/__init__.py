"""Tables of small models of every kind that NumPyro can write, each with means that are known."""
