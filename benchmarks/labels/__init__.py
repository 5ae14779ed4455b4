"""`make bench-labels`: many annotators at a time, and a server that is killed meanwhile."""
