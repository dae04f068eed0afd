/* Plain PUSH and PULL in C, with libzmq alone (docs/protocol.md, section 7.6).
 *
 *     plain_pipe push ADDRESS COUNT                sends the JSON texts 0, 1, 2, ... COUNT - 1
 *     plain_pipe pull ADDRESS COUNT  > messages    reads so many; each is a line of the output
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define PATIENCE_MS 20000

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
    return 1;
}

static int push(void *socket, int number)
{
    char text[32];
    int size = snprintf(text, sizeof text, "%d", number);

    return zmq_send(socket, text, (size_t)size, 0) < 0 ? fail("send") : 0;
}

static int pull(void *socket)
{
    zmq_msg_t frame;
    int more;

    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, socket, 0) < 0)
        return fail("no message");
    more = zmq_msg_more(&frame);
    fwrite(zmq_msg_data(&frame), 1, zmq_msg_size(&frame), stdout);
    putchar('\n');
    zmq_msg_close(&frame);
    return more ? fail("more than one frame") : 0;
}

int main(int argc, char **argv)
{
    int patience = PATIENCE_MS, count, number, pushes, failed = 0;
    void *context, *socket;

    if (argc != 4)
        return 2;
    pushes = strcmp(argv[1], "push") == 0;
    count = atoi(argv[3]);
    context = zmq_ctx_new();
    socket = zmq_socket(context, pushes ? ZMQ_PUSH : ZMQ_PULL);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &patience, sizeof patience);
    zmq_setsockopt(socket, ZMQ_LINGER, &patience, sizeof patience);
    if (zmq_connect(socket, argv[2]) != 0)
        failed = fail("connect");
    for (number = 0; !failed && number < count; number++)
        failed = pushes ? push(socket, number) : pull(socket);
    zmq_close(socket);
    zmq_ctx_term(context);
    return failed;
}
