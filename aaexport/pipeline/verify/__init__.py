"""A file × a module → the verdict: who computes on which inputs, what is wrong, and the first node that is."""
