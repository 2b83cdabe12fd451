"""Real Kafka and real Postgres on this machine from packages alone, and the supervisor behind `plutus up`.

Gateway and workers are started as commands and never imported. The way in is `stack.LocalStack` (the two servers) or
`system.System` (everything).
"""
