"""A queue between clients and servers, in a process of its own, that is killed in the middle.

Client and server know the queue's two addresses and nothing of each other. The queue is killed with SIGKILL while calls
are under way, and another one is started at the same addresses. It knows nothing of what was: the session between
client and server goes on through it, what was lost on the way is sent again, and no call is executed twice.
"""

import os
import signal

import zmqkit
from zmqkit.devices import DeviceProcess, Queue

# A session outlives a device that is away by 10 x 1 s; without heartbeat= by 3 s.
PATIENT = zmqkit.Heartbeat(interval=1.0, liveness=10)
executed: list[int] = []

queue = DeviceProcess(Queue, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*", plain=False).open()
(front,), (back,) = queue.frontend_addresses, queue.backend_addresses

server = zmqkit.Server(connect=back, heartbeat=PATIENT)


@server.method
def square(number: int) -> int:
    executed.append(number)
    return number * number


with server, zmqkit.Client(front, heartbeat=PATIENT, timeout=30) as client:
    print("through the queue:", client.call("square", 12))

    replies = [client.submit("square", number) for number in range(100)]
    assert queue.pid is not None
    os.kill(queue.pid, signal.SIGKILL)
    print(f"the queue's process ended with {queue.wait(10)}, calls under way")
    queue.close()

    with DeviceProcess(Queue, front, back, plain=False) as successor:
        right = sum(reply.result() == number * number for number, reply in enumerate(replies))
        print(f"through its successor: {right} of {len(replies)} right answers")
        print(f"executed: {len(executed)} calls, {len(executed) - 101} more often than once")
        print(f"sessions that went on: {client.stats()['sessions_resumed']}")
        print(f"the successor saw {successor.stats()['frontend_messages_received']} messages from the client's side")
