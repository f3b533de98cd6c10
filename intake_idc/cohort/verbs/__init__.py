"""The verbs of a cohort, a class for each room; `Cohort` has all of them."""
