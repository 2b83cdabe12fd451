#!/usr/bin/env bash
# As the image of PostgreSQL does: as root it hands the data folder over and goes on as postgres; an empty folder becomes a
# database that asks for passwords.
set -euo pipefail
: "${POSTGRES_PASSWORD:?is not set}"
user=${POSTGRES_USER:-postgres}
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres /var/lib/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups bash "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb -D "$PGDATA" -U "$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth=scram-sha-256 --encoding=UTF8 \
        --locale=C.UTF-8 --data-checksums >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    printf 'CREATE DATABASE "%s"\n' "${POSTGRES_DB:-$user}" | postgres --single -D "$PGDATA" template1 >/dev/null
fi
exec "$@" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
