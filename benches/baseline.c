/* The least a supervisor can do, as the unit of every ratio: fork and exec N children in a loop, block in waitpid(2), fork
 * and exec a dead child again at once, reap whatever else turns up, and on SIGTERM signal every child and leave when the
 * last is gone. No logs, no configuration, no readiness, no backoff.
 *
 * usage: baseline N CHILD     runs CHILD 0 ... CHILD N-1 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_CHILDREN = 1024 };

static volatile pid_t children[MAX_CHILDREN];
static volatile sig_atomic_t count, stopping;

static void on_term(int signal) {
    int saved = errno;
    stopping = 1;
    for (int i = 0; i < count; i++)
        if (children[i] > 0)
            kill(children[i], signal);
    errno = saved;
}

static void start(int i, const char *program) {
    pid_t pid = fork();
    if (pid == 0) {
        char number[12];
        snprintf(number, sizeof number, "%d", i);
        signal(SIGTERM, SIG_DFL);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execl(program, program, number, (char *)NULL);
        _exit(127);
    }
    if (pid < 0) {
        fprintf(stderr, "baseline: cannot fork: %s\n", strerror(errno));
        exit(71);
    }
    children[i] = pid;
}

int main(int argc, char **argv) {
    int n = argc == 3 ? atoi(argv[1]) : 0;
    if (n < 1 || n > MAX_CHILDREN) {
        fprintf(stderr, "usage: baseline N CHILD, with N from 1 to %d\n", MAX_CHILDREN);
        return 64;
    }
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    /* Blocked while the table changes: a child forked but not yet noted would miss the signal. */
    sigprocmask(SIG_BLOCK, &term, NULL);
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    count = n;
    for (int i = 0; i < n; i++)
        start(i, argv[2]);
    sigprocmask(SIG_UNBLOCK, &term, NULL);
    for (;;) {
        pid_t pid = waitpid(-1, NULL, 0);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid < 0)
            return stopping ? 0 : 71;
        sigprocmask(SIG_BLOCK, &term, NULL);
        for (int i = 0; i < n; i++)
            if (children[i] == pid) {
                children[i] = 0;
                if (!stopping)
                    start(i, argv[2]);
                break;
            }
        sigprocmask(SIG_UNBLOCK, &term, NULL);
    }
}
