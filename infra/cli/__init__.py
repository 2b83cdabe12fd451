"""The `plutus` command: one module per group of commands."""
