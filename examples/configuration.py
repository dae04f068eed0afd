"""Configuration with last values: a service that starts late has every setting at once, and then hears of changes.

The publisher keeps the last value of each topic (`last_value=True`). A subscriber gets those of its topics first, and
after them, without a hole between, whatever changes. Prints what two services know, one of them started late.
"""

from typing import Any

import zmqkit

SETTINGS = {
    "config.web.port": 8080,
    "config.web.workers": 4,
    "config.db.pool": 10,
    "config.db.timeout": 2.5,
}


class Service:
    """Has what stands beneath a topic, kept up to date.

    Args:
        address: of the publisher.
        part: such as "config.web".
        needs: how many settings it must have to begin.
    """

    def __init__(self, address: str, part: str, needs: int) -> None:
        self.settings: dict[str, Any] = {}
        self._sub = zmqkit.Subscriber(address, topics=f"{part}.#").open()
        while len(self.settings) < needs:
            self.take_one()

    def take_one(self) -> None:
        """Wait for one setting."""
        message = self._sub.receive()
        self.settings[message.topic] = message.body

    def close(self) -> None:
        self._sub.close()


def main() -> None:
    with zmqkit.Publisher("tcp://127.0.0.1:*", last_value=True) as config:
        for topic, value in SETTINGS.items():
            config.publish(topic, value)
        config.publish("config.web.workers", 8)  # the 4 is of no interest any more

        web = Service(config.addresses[0], "config.web", needs=2)
        print("web began with", web.settings)
        assert web.settings == {"config.web.port": 8080, "config.web.workers": 8}

        config.publish("config.db.pool", 20)
        config.publish("config.web.workers", 16)
        web.take_one()
        print("web heard of", web.settings["config.web.workers"], "workers")

        everything = Service(config.addresses[0], "config", needs=4)
        print("a late one began with", everything.settings)
        assert everything.settings == {**SETTINGS, "config.web.workers": 16, "config.db.pool": 20}
        web.close()
        everything.close()


if __name__ == "__main__":
    main()
