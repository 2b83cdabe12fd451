#!/bin/sh
cd "$(dirname "$0")/.." || exit 1
exec /srv/java/bin/java -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp 'libs/*' \
    org.apache.kafka.tools.BrokerApiVersionsCommand "$@"
