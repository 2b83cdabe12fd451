"""What gateway and worker share: settings, logs, telemetry, the Kafka producer, Postgres pools. Imports only `schemas`."""
