#!/bin/sh
# Makes the database on the first start, with the variables of the image everyone knows, and becomes the server.
set -e
user=${POSTGRES_USER:-postgres}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s\n' "${POSTGRES_PASSWORD:?must be set}" > /tmp/pw
    initdb --username="$user" --pwfile=/tmp/pw --auth-host=scram-sha-256 --auth-local=trust
    rm /tmp/pw
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl -w -o '-c listen_addresses=' start
    [ "${POSTGRES_DB:-$user}" = postgres ] || createdb --username="$user" "${POSTGRES_DB:-$user}"
    pg_ctl -w -m fast stop
fi
exec "$@"
