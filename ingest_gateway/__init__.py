"""The gateway: takes events in over HTTP, answers only when Kafka has them, and knows a duplicate when it sees one."""
