// Starts its own daemon and stops it under a running task. See verdicts.test.ts.

import { connect, MayflyError } from "mayfly";
import { running } from "./support.js";

const mayfly = await connect();
const task = await running(mayfly);
process.kill(Number(process.env["MAYFLY_DAEMON_PID"]), "SIGTERM");
const result = await task.wait();
console.log(result.verdict, result.receipt.complete);
await mayfly.closed;
await mayfly.run({ code: "" }).catch((error: unknown) => {
  if (error instanceof MayflyError) console.log(error.name, error.code);
});
