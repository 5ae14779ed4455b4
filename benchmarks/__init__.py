"""Speed measurements. They are run by hand (`make bench`) on a quiet machine, never as tests."""
