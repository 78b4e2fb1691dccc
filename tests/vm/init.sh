#!/bin/busybox sh
# PID 1 of the small machine: makes it look like a Linux system, then does what /scenario says, and switches it off. Results go to the second
# serial port, so that nothing the kernel says gets between them.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp /run
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
# As systemd mounts it: a cgroup namespace is a border then.
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
echo '+memory +pids +cpu' >/sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1
cd /tmp

CG=/sys/fs/cgroup

# What follows belongs to this part of the output.
section() { echo "### $*"; }

# A cgroup below the root's, with this limit: `group web 64M`, `group web/inner max`.
group() {
    mkdir -p "$CG/$1"
    [ "$2" = max ] || echo "$2" >"$CG/$1/memory.max"
}

# Below it there may be more with a limit of their own. Only while no process is in it.
parent() { echo '+memory +pids' >"$CG/$1/cgroup.subtree_control"; }

# Runs a command in a cgroup: `within web hog 100`.
within() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    where=$1 && shift && sh -c 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"' sh "$CG/$where" "$@"
}

# One number of a file of several: `counter web memory.events oom_kill`.
counter() { sed -n "s/^$3 //p" "$CG/$1/$2"; }

# Waits until a command succeeds, at most so many seconds: `until_true 10 test -e file`.
until_true() {
    most=$(($(date +%s) + $1)) && shift
    while ! "$@" 2>/dev/null; do
        [ "$(date +%s)" -lt "$most" ] || { echo "waited in vain until: $*"; return 1; }
        usleep 50000
    done
}

. /scenario
section end
poweroff -f
