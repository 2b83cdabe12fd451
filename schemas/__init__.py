"""What an event is: the envelope, its limits, its id, its fingerprint and the one parser both processes use.

Nothing here knows Kafka clients, HTTP, SQL or settings; everything else may import it.
"""
