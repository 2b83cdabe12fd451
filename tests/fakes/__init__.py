"""Fakes of ports. Each passes the same contract suite as the real service (`tests/contract/`)."""
