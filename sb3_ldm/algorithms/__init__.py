"""The meta-learners, a folder each."""
