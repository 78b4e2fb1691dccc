/* Runs one contestant in a PID namespace of its own with its own /proc, so that it may be PID 1 and that nothing of it
 * outlives the measurement: when this program dies or the namespace's init is killed, the kernel kills the rest.
 *
 * usage: cell [--under-init] COMMAND ARG...
 *
 * Without the option COMMAND is PID 1; with it PID 1 is a bare reaper and COMMAND its child, PID 2. The board gets the time
 * just before the exec of COMMAND and the init's pid as seen from outside. Exits as COMMAND did,
 * once no process is left in the namespace. */
#include "board.h"
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static void die(const char *what) {
    fprintf(stderr, "cell: cannot %s: %s%s\n", what, strerror(errno),
            errno == EPERM ? " (namespaces need root with CAP_SYS_ADMIN; in a container: docker run --privileged)" : "");
    _exit(70);
}

static int exit_code(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void exec_contestant(struct board *board, char **command) {
    board->exec_ns = now_ns();
    execvp(command[0], command);
    die("exec the contestant");
}

int main(int argc, char **argv) {
    int under_init = argc > 1 && strcmp(argv[1], "--under-init") == 0;
    char **command = argv + 1 + under_init;
    if (!command[0]) {
        fprintf(stderr, "usage: cell [--under-init] COMMAND ARG...\n");
        return 64;
    }
    struct board *board = board_open();
    /* Should the harness be killed, so are this program, the namespace's init and with it everything in the namespace. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        die("ask for a signal at the parent's death");
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
        die("make a PID namespace");
    pid_t init = fork();
    if (init < 0)
        die("fork the namespace's init");
    if (init > 0) {
        int status;
        board->init_pid = (uint64_t)init;
        while (waitpid(init, &status, 0) < 0 && errno == EINTR)
            continue;
        return exit_code(status);
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        die("ask for a signal at the parent's death");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        die("mount the namespace's /proc");
    if (!under_init)
        exec_contestant(board, command);
    pid_t contestant = fork();
    if (contestant < 0)
        die("fork the contestant");
    if (contestant == 0) {
        prctl(PR_SET_PDEATHSIG, 0);
        exec_contestant(board, command);
    }
    int status, code = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, 0)) > 0 || errno == EINTR;)
        if (pid == contestant)
            code = exit_code(status);
    return code;
}
