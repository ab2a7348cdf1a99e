// Express' compression() in front of a node: prints its port, and passes each request on.

import http from "node:http";
import compression from "compression";

const compress = compression();
const proxy = http.createServer((request, response) => {
  compress(request, response, () => {
    const { method, url, headers } = request;
    const onward = http.request({ host: "127.0.0.1", port: process.argv[2], method, path: url, headers }, (answer) => {
      const { connection, "transfer-encoding": _, ...kept } = answer.headers;
      response.writeHead(answer.statusCode, kept);
      answer.pipe(response);
    });
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  });
});
proxy.listen(0, "127.0.0.1", () => console.log(proxy.address().port));
