/* A plain subscriber in C, with libzmq alone (docs/protocol.md, section 14.8).
 *
 *     plain_subscriber ADDRESS PREFIX COUNT  > messages
 *
 * Reads so many messages that begin with the prefix; each is a line of the output: topic, space, body.
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

static int print_frame(void *subscriber, int more_wanted, char end)
{
    zmq_msg_t frame;

    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, subscriber, 0) < 0)
        return fail("no message");
    if (zmq_msg_more(&frame) != more_wanted)
        return fail("not a topic and a body");
    fwrite(zmq_msg_data(&frame), 1, zmq_msg_size(&frame), stdout);
    putchar(end);
    zmq_msg_close(&frame);
    return 0;
}

int main(int argc, char **argv)
{
    int patience = PATIENCE_MS, linger = 0, count, failed = 0;
    void *context, *subscriber;

    if (argc != 4)
        return 2;
    count = atoi(argv[3]);
    context = zmq_ctx_new();
    subscriber = zmq_socket(context, ZMQ_SUB);
    zmq_setsockopt(subscriber, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(subscriber, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(subscriber, ZMQ_SUBSCRIBE, argv[2], strlen(argv[2]));
    if (zmq_connect(subscriber, argv[1]) != 0)
        failed = fail("connect");
    while (!failed && count-- > 0)
        failed = print_frame(subscriber, 1, ' ') || print_frame(subscriber, 0, '\n');
    zmq_close(subscriber);
    zmq_ctx_term(context);
    return failed;
}
