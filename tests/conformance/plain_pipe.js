/* Plain PUSH and PULL in JavaScript, with the package `zeromq` alone (docs/protocol.md, section 7.6).
 *
 *     node plain_pipe.js push ADDRESS COUNT                sends the JSON texts 0, 1, 2, ... COUNT - 1
 *     node plain_pipe.js pull ADDRESS COUNT  > messages    reads so many; each is a line of the output
 */
"use strict"

const zmq = require("zeromq")

async function push(address, count) {
  const socket = new zmq.Push({ sendTimeout: 20000, linger: 20000 })
  socket.connect(address)
  for (let n = 0; n < count; n++) await socket.send(JSON.stringify(n))
  socket.close()
}

async function pull(address, count) {
  const socket = new zmq.Pull({ receiveTimeout: 20000, linger: 0 })
  socket.connect(address)
  for (let n = 0; n < count; n++) {
    const frames = await socket.receive()
    if (frames.length !== 1) throw new Error(`a message of ${frames.length} frames`)
    console.log(String(frames[0]))
  }
  socket.close()
}

async function main(way, address, count) {
  await (way === "push" ? push : pull)(address, Number(count))
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exit(1)
})
