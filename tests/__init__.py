"""The tests, laid out like the package; `kit` is what they share."""
