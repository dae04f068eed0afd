/* A plain client in JavaScript, with the package `zeromq` alone (docs/protocol.md, section 13).
 *
 *     node plain_client.js ADDRESS REQ|DEALER  < requests  > replies
 *
 * Each line of the input is a request in JSON. A REQ asks one after the other; a DEALER sends all and then takes the
 * replies, in whatever order they come. Each reply is a line of the output.
 */
"use strict"

const fs = require("fs")
const zmq = require("zeromq")

const PATIENCE = { receiveTimeout: 20000, sendTimeout: 20000, linger: 0 }

async function printReply(client) {
  const frames = await client.receive()
  if (frames.length !== 1) throw new Error(`a reply of ${frames.length} frames`)
  console.log(frames[0].toString())
}

async function main(address, kind) {
  const requests = fs.readFileSync(0, "utf8").split("\n").filter((line) => line)
  const client = kind === "DEALER" ? new zmq.Dealer(PATIENCE) : new zmq.Request(PATIENCE)
  client.connect(address)
  for (const request of requests) {
    await client.send(request)
    if (kind !== "DEALER") await printReply(client)
  }
  if (kind === "DEALER") for (const _ of requests) await printReply(client)
  client.close()
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exit(1)
})
