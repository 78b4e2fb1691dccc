/* The measured service: notes the time of its first instruction on the board and then waits for a signal, all of which
 * keep their default action. Linked statically, so that no dynamic loader runs before the note is taken. */
#include "board.h"

int main(int argc, char **argv) {
    uint64_t began = now_ns();
    board_started(board_open(), service_id(argc, argv), began);
    for (;;)
        pause();
}
