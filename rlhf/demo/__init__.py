"""The demo's world: customers, support replies, a rubric, and simulated annotators who know it."""
