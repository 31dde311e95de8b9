"""The library as a whole, in other people's surroundings."""
