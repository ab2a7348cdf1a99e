// One request per line of the standard input; one answer, or event, per line of the standard output.

import { createInterface } from "node:readline";
import { Centrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import WebSocket from "ws";
import { createDriver } from "./driver.mjs";

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const perform = createDriver(
  { json: Centrifuge, protobuf: ProtobufCentrifuge },
  { websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream },
  tell,
);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, ...request } = JSON.parse(line);
  perform(request).then(
    (result) => tell({ id, result }),
    (error) => tell({ id, error: { code: error.code ?? 0, message: error.message ?? String(error) } }),
  );
}
process.exit(0);
