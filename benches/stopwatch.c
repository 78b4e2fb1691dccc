/* Signals a supervisor and times how everything ends.
 *
 * usage: stopwatch SIGNAL TARGET SERVICE-PID... -- OWN-PID...
 *
 * Prints two numbers, in nanoseconds since just before kill(2): the death of the last service, and the end of the last of
 * the supervisor's own processes. A process counts as dead when its pidfd becomes readable (pidfd_open(2)), that is when
 * it exits, not when it is reaped. The pidfds are waited for one after the other: that wakes this program a few times
 * only, where waiting for all would wake it for each and take the processor from those it measures. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PROCESSES = 4096, DEADLINE_MS = 180000 };

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "stopwatch: cannot %s: %s\n", what, strerror(errno));
    exit(70);
}

static void wait_for_all(const int *fds, int count) {
    for (int i = 0; i < count; i++) {
        struct pollfd poll_fd = {.fd = fds[i], .events = POLLIN};
        int ready;
        while ((ready = poll(&poll_fd, 1, DEADLINE_MS)) < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready != 1)
            die("wait for a process to end");
    }
}

int main(int argc, char **argv) {
    static int fds[2][MAX_PROCESSES];
    int counts[2] = {0, 0}, side = 0;
    if (argc < 5) {
        fprintf(stderr, "usage: stopwatch SIGNAL TARGET SERVICE-PID... -- OWN-PID...\n");
        return 64;
    }
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            side = 1;
            continue;
        }
        if (counts[side] == MAX_PROCESSES) {
            errno = E2BIG;
            die("watch so many processes");
        }
        int fd = (int)syscall(SYS_pidfd_open, (pid_t)atoi(argv[i]), 0);
        if (fd < 0)
            die("open a pidfd");
        fds[side][counts[side]++] = fd;
    }
    uint64_t began = now_ns();
    if (kill((pid_t)atoi(argv[2]), atoi(argv[1])) < 0)
        die("signal the supervisor");
    wait_for_all(fds[0], counts[0]);
    uint64_t services = now_ns();
    wait_for_all(fds[1], counts[1]);
    printf("%llu %llu\n", (unsigned long long)(services - began), (unsigned long long)(now_ns() - began));
    return 0;
}
