"""Everything around the two processes: what they share at run time, the local mode, the command line."""
