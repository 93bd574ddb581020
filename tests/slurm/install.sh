#!/bin/sh
# Install what a private test cluster needs, where it is missing: SLURM and munge (13 MB), with --accounting also
# slurmdbd and MariaDB (190 MB). Debian or Ubuntu, as root or with sudo. No daemon of the system is started.
set -eu

packages=
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || packages="$packages $2"; }
need slurmctld slurmctld
need slurmd slurmd
need sbatch slurm-client
need munged munge
if [ "${1:-}" = --accounting ]; then
    need slurmdbd slurmdbd
    need mariadbd mariadb-server
fi
[ -n "$packages" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if ! command -v apt-get >/dev/null || { [ -n "$as_root" ] && ! command -v sudo >/dev/null; }; then
    echo "The tests on a cluster need$packages. Install them (here is no apt, or no way to become root)." >&2
    exit 1
fi

echo "Installing$packages"
policy=/usr/sbin/policy-rc.d # its exit code 101 keeps packages from starting their daemons
made=
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod +x $policy
    made=yes
fi
clean() { [ -z "$made" ] || $as_root rm -f $policy; }
trap clean EXIT
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $packages \
    >/dev/null
