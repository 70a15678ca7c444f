"""Hydra configs; a package, so that Hydra can read them from where they are installed."""
