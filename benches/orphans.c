/* Makes orphans and times how long they take to be reaped by whoever adopts them. It runs as the only service of a
 * supervisor, or as the program of tini and its like, and makes the number of orphans the board asks for, as often as it
 * asks, in one of two ways:
 *
 *   streamed: fork a child that forks a grandchild and exits, over and over; each grandchild exits at once. The time
 *   runs from the first fork until the last grandchild is reaped.
 *   at once: all grandchildren stand waiting and already belong to the reaper; then all are told to exit together. The
 *   time runs from that moment until the last is reaped, so nothing but exiting and reaping is in it.
 *
 * "Reaped" is seen without disturbing anyone: a pid answers kill(pid, 0) as long as its zombie exists, and gives ESRCH
 * from the moment it was waited for. Pids are asked one after the other, each until it is gone, which is one hash look-up
 * per orphan plus one per 200 us of waiting. No pid can be used twice, as pid_max is checked to be large enough. */
#include "board.h"
#include <signal.h>
#include <sys/wait.h>

static struct board *board;

static void fail(int error) {
    board->failed_errno = (uint64_t)error;
    for (;;)
        pause();
}

static void sleep_us(long us) {
    struct timespec t = {.tv_nsec = us * 1000};
    nanosleep(&t, NULL);
}

static void wait_until_reaped(const volatile pid_t *pids, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (pids[i] <= 0)
            fail(ECHILD);
        while (kill(pids[i], 0) == 0)
            sleep_us(200);
        if (errno != ESRCH)
            fail(errno);
    }
}

/* Forks; the caller's child gets 0. */
static pid_t fork_or_fail(void) {
    pid_t pid = fork();
    if (pid < 0)
        fail(errno);
    return pid;
}

static void streamed(volatile pid_t *pids, uint64_t count) {
    board->begin_ns = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        pid_t middle = fork_or_fail();
        if (middle == 0) {
            pid_t orphan = fork();
            if (orphan == 0)
                _exit(0);
            pids[i] = orphan;
            _exit(0);
        }
        waitpid(middle, NULL, 0);
    }
    wait_until_reaped(pids, count);
    board->end_ns = now_ns();
}

static void at_once(volatile pid_t *pids, uint64_t count) {
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) < 0)
        fail(errno);
    pid_t middle = fork_or_fail();
    if (middle == 0) {
        close(gate[1]);
        for (uint64_t i = 0; i < count; i++) {
            pid_t orphan = fork();
            if (orphan == 0) {
                char byte;
                while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
                    continue;
                _exit(0);
            }
            pids[i] = orphan;
            if (orphan < 0)
                _exit(1);
        }
        _exit(0);
    }
    close(gate[0]);
    int status;
    waitpid(middle, &status, 0);
    if (status != 0)
        fail(EAGAIN);
    /* The last ones forked may still be on their way to read(2). */
    sleep_us(100000);
    board->begin_ns = now_ns();
    close(gate[1]);
    wait_until_reaped(pids, count);
    board->end_ns = now_ns();
}

int main(void) {
    uint64_t began = now_ns();
    board = board_open();
    uint64_t count = board->orphans;
    volatile pid_t *pids =
        mmap(NULL, (count + 1) * sizeof *pids, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pids == MAP_FAILED)
        fail(errno);
    board_started(board, 0, began);

    for (uint64_t turn = 1;; turn++) {
        while (__atomic_load_n(&board->go, __ATOMIC_ACQUIRE) < turn)
            sleep_us(5000);
        memset((void *)pids, 0, count * sizeof *pids);
        (board->at_once ? at_once : streamed)(pids, count);
        __atomic_store_n(&board->done, turn, __ATOMIC_RELEASE);
    }
}
