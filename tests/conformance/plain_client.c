/* A plain client in C, with libzmq alone (docs/protocol.md, section 13).
 *
 *     plain_client ADDRESS REQ|DEALER  < requests  > replies
 *
 * Each line of the input is a request in JSON. A REQ asks one after the other; a DEALER sends all and then takes the
 * replies, in whatever order they come. Each reply is a line of the output.
 */
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define PATIENCE_MS 20000

static char line[1 << 20];

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
    return 1;
}

static int print_reply(void *client)
{
    zmq_msg_t reply;

    zmq_msg_init(&reply);
    if (zmq_msg_recv(&reply, client, 0) < 0)
        return fail("no reply");
    if (zmq_msg_more(&reply))
        return fail("a reply of several frames");
    fwrite(zmq_msg_data(&reply), 1, zmq_msg_size(&reply), stdout);
    putchar('\n');
    zmq_msg_close(&reply);
    return 0;
}

int main(int argc, char **argv)
{
    int patience = PATIENCE_MS, linger = 0, dealer, waiting = 0, failed = 0;
    void *context, *client;

    if (argc != 3)
        return 2;
    dealer = strcmp(argv[2], "DEALER") == 0;
    context = zmq_ctx_new();
    client = zmq_socket(context, dealer ? ZMQ_DEALER : ZMQ_REQ);
    zmq_setsockopt(client, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(client, ZMQ_SNDTIMEO, &patience, sizeof patience);
    zmq_setsockopt(client, ZMQ_LINGER, &linger, sizeof linger);
    if (zmq_connect(client, argv[1]) != 0)
        failed = fail("connect");
    while (!failed && fgets(line, sizeof line, stdin) != NULL) {
        if (zmq_send(client, line, strcspn(line, "\n"), 0) < 0)
            failed = fail("send");
        else if (dealer)
            waiting++;
        else
            failed = print_reply(client);
    }
    while (!failed && waiting-- > 0)
        failed = print_reply(client);
    zmq_close(client);
    zmq_ctx_term(context);
    return failed;
}
