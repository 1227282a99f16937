"""The `tunefarm` command line."""
