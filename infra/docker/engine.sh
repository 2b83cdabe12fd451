#!/usr/bin/env bash
# A Docker API for `make test-containers` on a Debian machine where none answers: no Docker Engine, no systemd and no image
# registry are needed, root is. What it makes stays below $PLUTUS_ENGINE, except for the Debian packages.
#
#   engine.sh setup      once: podman and buildah, a base image with Python, the compose plugin (built with Go)
#   engine.sh run CMD    sets up, serves while the command runs, and ends with its exit code:
#                            infra/docker/engine.sh run make test-containers
#   engine.sh serve      in the foreground until it is stopped; writes $PLUTUS_ENGINE/env, to be sourced by who uses it
#
# The base image (localhost/plutus-base) stands in for python:3.12-slim: a minimal Debian with its own Python.
set -euo pipefail

here=${PLUTUS_ENGINE:-/var/tmp/plutus-engine}
compose_version=v2.40.3
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker CONTAINERS_CONF="$here/containers.conf"

packages() {
    local program missing=no
    for program in podman buildah debootstrap runc; do command -v "$program" >/dev/null || missing=yes; done
    [ $missing = no ] && return
    # netavark has to be there before podman makes its first network.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        aardvark-dns buildah debootstrap iptables netavark podman runc >/dev/null
}

configuration() {
    # No systemd: cgroupfs and a log file. crun refuses mixed cgroup hierarchies, and the usual ulimits may be above ours.
    # Builds borrow the certificates of this machine, so that they get through a proxy that signs its own.
    cat >"$CONTAINERS_CONF" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
volumes = ["/etc/ssl/certs:/etc/ssl/certs:ro", "/usr/local/share/ca-certificates:/usr/local/share/ca-certificates:ro"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
CONF
}

base_image() {
    buildah inspect --type image localhost/plutus-base >/dev/null 2>&1 && return
    local mirror container
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ') || true
    rm -rf "$here/rootfs"
    debootstrap --variant=minbase --include=ca-certificates,prometheus,python3,python3-venv trixie "$here/rootfs" \
        "${mirror:-http://deb.debian.org/debian}" >"$here/debootstrap.log"
    rm -rf "$here/rootfs/var/cache/apt" "$here/rootfs/var/lib/apt/lists"
    container=$(buildah from scratch)
    buildah add -q "$container" "$here/rootfs" / >/dev/null
    buildah commit -q "$container" localhost/plutus-base >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$here/rootfs"
}

compose_plugin() {
    [ -x "$here/bin/docker-compose" ] && return
    mkdir -p "$here/compose" "$here/bin"
    # As a dependency: its own module file cannot be installed from outside.
    (cd "$here/compose" && printf 'module plutus/compose\n\ngo 1.24\n' >go.mod &&
        go get "github.com/docker/compose/v2@$compose_version" 2>go.log &&
        go build -mod=mod -o "$here/bin/docker-compose" github.com/docker/compose/v2/cmd 2>>go.log)
}

health_checks() {
    # Without systemd nobody runs them, and whoever waits for `service_healthy` would wait for ever.
    while sleep 1; do
        for container in $(podman ps -q --filter health=starting --filter health=healthy --filter health=unhealthy); do
            podman healthcheck run "$container" >/dev/null 2>&1 || true
        done
    done
}

set_up() {
    mkdir -p "$here"
    packages
    configuration
    base_image
    compose_plugin
}

serve() {
    podman system service --time=0 "unix://$here/podman.sock" &
    health_checks &
    # shellcheck disable=SC2064  # these two, now
    trap "kill $(jobs -p | tr '\n' ' ') 2>/dev/null || true" EXIT
    cat >"$here/env" <<ENV
export DOCKER_HOST=unix://$here/podman.sock DOCKER_BUILDKIT=0
export TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_CONNECTION_MODE=docker_host
export STORAGE_DRIVER=$STORAGE_DRIVER BUILDAH_ISOLATION=$BUILDAH_ISOLATION BUILDAH_FORMAT=$BUILDAH_FORMAT
export CONTAINERS_CONF=$CONTAINERS_CONF
export PLUTUS_COMPOSE=$here/bin/docker-compose PLUTUS_BASE_IMAGE=localhost/plutus-base
ENV
    until [ -S "$here/podman.sock" ]; do sleep 0.1; done
}

case ${1:-} in
setup)
    set_up
    ;;
run)
    shift
    set_up
    serve
    # shellcheck disable=SC1091
    . "$here/env"
    "$@"
    ;;
serve)
    serve
    echo "serving; in the other terminal: . $here/env" >&2
    wait
    ;;
*)
    sed -n '2,11p' "$0" >&2
    exit 2
    ;;
esac
