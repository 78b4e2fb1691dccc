/* The board: one page-aligned file shared by the harness and every measured program through mmap(2).
 *
 * Writing a time stamp to it costs two stores, so that measuring does not weigh on what is measured; nobody reads it while
 * a clock runs except by rare polling. All times are CLOCK_MONOTONIC in nanoseconds, which is one clock for all PID
 * namespaces. `benches/run` knows the same layout by name. */
#ifndef BOARD_H
#define BOARD_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BOARD_SLOTS = 1024 };

/* One service: written by each of its runs as it begins. `starts` is stored last and so publishes the rest. */
struct slot {
    uint64_t starts;   /* runs so far */
    uint64_t first_ns; /* first instruction of the first run */
    uint64_t last_ns;  /* first instruction of the latest run */
    uint64_t pid;      /* of the latest run, as seen inside its PID namespace */
};

struct board {
    uint64_t exec_ns;         /* the moment before the supervisor's exec */
    uint64_t init_pid;        /* the namespace's init, as seen from outside */
    uint64_t orphans;         /* the harness: how many orphans to make each time */
    uint64_t at_once;         /* the harness: 0 streamed, 1 at once */
    uint64_t go;              /* the harness: how many times orphans.c shall have made them */
    uint64_t done;            /* orphans.c: how many times it has; the next two are of the latest */
    uint64_t begin_ns;        /* streamed: first fork; at once: all are told to exit */
    uint64_t end_ns;          /* last orphan reaped */
    uint64_t failed_errno;    /* orphans.c could not go on */
    uint64_t reserved[7];
    struct slot slots[BOARD_SLOTS];
};

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Maps the file named by $BENCH_BOARD; ends the program when that cannot be done, since nothing could be measured. */
static inline struct board *board_open(void) {
    const char *path = getenv("BENCH_BOARD");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct board *board = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED) {
        fprintf(stderr, "cannot map the board %s: %s\n", path ? path : "(BENCH_BOARD is not set)", strerror(errno));
        exit(70);
    }
    close(fd);
    return board;
}

/* Records that a run of service `id` began at `began`. */
static inline void board_started(struct board *board, unsigned id, uint64_t began) {
    if (id >= BOARD_SLOTS) {
        fprintf(stderr, "service number %u is beyond the board's %d slots\n", id, BOARD_SLOTS);
        exit(70);
    }
    struct slot *slot = &board->slots[id];
    if (slot->starts == 0)
        slot->first_ns = began;
    slot->last_ns = began;
    slot->pid = (uint64_t)getpid();
    __atomic_add_fetch(&slot->starts, 1, __ATOMIC_RELEASE);
    /* s6 restarts at once only what had told it that it was ready: a newline on this descriptor. */
    const char *notify = getenv("BENCH_NOTIFICATION_FD");
    if (notify) {
        if (write(atoi(notify), "\n", 1) != 1)
            perror("cannot tell s6 that the service is ready");
        close(atoi(notify));
    }
}

/* The service's number: argv[1], or the digits that end the working directory's name (s6 and runit start a service in its
 * own directory and hand it no arguments of the user's choice). */
static inline unsigned service_id(int argc, char **argv) {
    static char cwd[4096];
    const char *text = cwd;
    if (argc > 1 && argv[1][0] >= '0' && argv[1][0] <= '9')
        text = argv[1];
    else if (getcwd(cwd, sizeof cwd) && strrchr(cwd, '/'))
        text = strrchr(cwd, '/') + 1;
    while (*text && (*text < '0' || *text > '9'))
        text++;
    if (!*text) {
        fprintf(stderr, "cannot tell the service's number from its arguments or its directory %s\n", cwd);
        exit(70);
    }
    return (unsigned)strtoul(text, NULL, 10);
}

#endif
