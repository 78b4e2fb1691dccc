# Races between a leaker and the guard, each in a container of its own with a limit. Sourced by the scripts of guard.rs.

# /run/race.toml: two bystanders with a little memory each, and a leaker that does what is said.
stack() { # MEMORY-SECTION LEAKER-WORDS
    cat >/run/race.toml <<TOML
[memory]
$1
[services.bystander]
instances = 2
command = "leaker plateau size=2MiB then=hold"
[services.leaker]
depends_on = { bystander = "started" }
stop_timeout = "30s"
command = "leaker $2"
TOML
}

# firstmate as PID 1 of a container in this cgroup: `contain GROUP [ro] [nobody] [WORD...]`; its process outside is $container.
contain() {
    where=$1 && shift
    words=
    for word; do
        case $word in
            ro) words="$words ro" ;;
            *) words="$words inside $word" ;;
        esac
    done
    rm -f /tmp/race.sock
    # shellcheck disable=SC2086 # the words are meant to be split
    within "$where" inside container $words firstmate start -f /run/race.toml --http off --socket /tmp/race.sock >/run/race.log 2>&1 &
    container=$!
}

alive() { [ -d "/proc/$container" ]; }

# How often a line of firstmate's matches.
told() { grep -cE "firstmate[^|]*\| .*$1" /run/race.log; }

# The race is over: the leaker's first run has ended, or all of the container has.
over() { [ "$(told 'leaker\.1 (killed by|exited with)')" -gt 0 ] || ! alive; }

# What became of it, as lines `name=value`, and what firstmate said.
report() { # GROUP
    limit=$(cat "$CG/$1/memory.max")
    [ "$limit" != max ] || limit=$(cat "$CG/$1/../memory.max")
    echo "oom=$(counter "$1" memory.events oom_kill)"
    echo "peak=$(($(cat "$CG/$1/memory.peak") * 1000 / limit))"
    alive && echo lives=true || echo lives=false
    echo "disturbed=$(told 'bystander\.[12] (killed by|exited with|restarts)')"
    grep firstmate /run/race.log | sed 's/^[^ ]* /| /'
}

# SIGKILL to all of a container.
end() { # GROUP
    echo 1 >"$CG/$1/cgroup.kill"
    wait "$container" 2>/dev/null
    echo "status=$?"
}

# One race of /run/race.toml in a cgroup that is there, words as for `contain`.
race() {
    contain "$@"
    until_true 100 over
    report "$1"
    end "$1"
}

# Removes a cgroup and those in it.
clear() { # GROUP
    find "$CG/$1" -depth -mindepth 1 -type d -exec rmdir {} +
    rmdir "$CG/$1"
}

# The same in a new cgroup for each, and as a section of its own.
races() { # NAME RUNS LIMIT [WORD...]
    name=$1 runs=$2 limit_of_each=$3 && shift 3
    for run in $(seq "$runs"); do
        section "$name $run"
        group "$name" "$limit_of_each"
        race "$name" ro "$@"
        until_true 10 rmdir "$CG/$name"
    done
}

# Services that are killed again and again: by the kernel's OOM killer, and from outside.
mortals() { # SERVICE... [LINE-OF-MEMORY-SECTION]
    printf '[memory]\nrestart_above = "off"\n' >/run/race.toml
    for service; do
        instances=1
        case $service in
            leaker) command='leaker leak rate=max' ;;
            victim) command='sleep 4321' ;;
            # The killed leaker's memory is not free at once. Whoever needs some then makes the kernel kill the next, and that should not be the
            # only one left, firstmate.
            ballast) command='leaker plateau size=2MiB then=hold' instances=5 ;;
            *) sed -i "2a $service" /run/race.toml && continue ;;
        esac
        cat >>/run/race.toml <<TOML
[services.$service]
command = "$command"
instances = $instances
give_up_after = "never"
backoff = { initial = "100ms", factor = 1.0, max = "100ms", jitter = 0.0 }
TOML
    done
}

at_least() { [ "$(told "$1")" -ge "$2" ]; }

# Kills the victim from outside, so often; each time a new one.
slay() { # TIMES
    for time in $(seq "$1"); do
        until_true 20 pidof sleep >/dev/null || return
        kill -KILL "$(pidof sleep)"
        until_true 20 at_least 'victim\.1 killed by' "$time" || return
    done
}

deaths() { # GROUP
    echo "kernel=$(counter "$1" memory.events oom_kill)"
    for service in leaker victim; do
        echo "$service-oom=$(told "$service\.1 killed by the kernel's OOM killer")"
        echo "$service-killed=$(told "$service\.1 killed by SIGKILL")"
    done
    echo "perhaps=$(told "the kernel's OOM killer killed 1 process .*perhaps")"
    alive && echo lives=true || echo lives=false
    grep firstmate /run/race.log | grep -vE 'started, pid|restarts in' | tail -n 40 | sed 's/^[^ ]* /| /'
}
