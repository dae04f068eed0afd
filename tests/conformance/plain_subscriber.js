/* A plain subscriber in JavaScript, with the package `zeromq` alone (docs/protocol.md, section 14.8).
 *
 *     node plain_subscriber.js ADDRESS PREFIX COUNT  > messages
 *
 * Reads so many messages that begin with the prefix; each is a line of the output: topic, space, body.
 */
"use strict"

const zmq = require("zeromq")

async function main(address, prefix, count) {
  const subscriber = new zmq.Subscriber({ receiveTimeout: 20000, linger: 0 })
  subscriber.subscribe(prefix)
  subscriber.connect(address)
  for (let n = 0; n < Number(count); n++) {
    const frames = await subscriber.receive()
    if (frames.length !== 2) throw new Error(`a message of ${frames.length} frames`)
    console.log(`${frames[0]} ${frames[1]}`)
  }
  subscriber.close()
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exit(1)
})
